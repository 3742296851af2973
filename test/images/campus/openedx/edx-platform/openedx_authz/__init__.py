"""Roles and policies; the platform's load_policies fills them in."""
