"""`make sam-local-test`: docs/sam-local.md as it is written, on a Docker engine.

__main__    chooses an engine, or says in one line why there is none
enclosure   namespaces of our own, for an engine that is started here
packages    Debian's engine, unpacked and not installed
engine      dockerd inside them
images      stand-ins for images that no registry gives
told        the page's blocks, then the story, on whatever engine answers
page        what a block is and how it is run
story       what is looked at once everything runs
machine     what a machine looks like before and after
"""
