"""Metrics of registrations and their reports."""
