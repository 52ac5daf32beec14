"""The service: gateway over a store of jobs. No torch here."""
