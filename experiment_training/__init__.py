"""The shipped experiments: plugins that fill the registries, and their training YAMLs."""
