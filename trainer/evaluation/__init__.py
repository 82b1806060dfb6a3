"""Policies in simulators: recording, rolling out, success rates, videos, the report."""
