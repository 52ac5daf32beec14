"""Jobs, bytes and artefacts at rest. No torch here."""
