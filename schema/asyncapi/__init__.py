"""Describe all topics and payloads as AsyncAPI 3.0."""
