// Shows the OpenAPI document of this stack. Credentials that a reader types stay in the page.
"use strict";
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#reference",
  deepLinking: true,
  displayRequestDuration: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  persistAuthorization: false,
  queryConfigEnabled: false,
  validatorUrl: null,
  onComplete() {
    // Its label names nothing.
    document.querySelector("#servers")?.setAttribute("aria-label", "Server");
  },
});
