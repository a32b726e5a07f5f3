// The answers of the API, with the names that the API gives their fields. Quantities and money are
// decimal texts ("1.5"), times are ISO 8601 in UTC. Fields that the API adds later are kept.
export {};
