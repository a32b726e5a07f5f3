"""Hosted pages: checkout and customer portal. They work without JavaScript."""
