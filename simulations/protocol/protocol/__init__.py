"""Radiology protocoling: order notes in, one of 34 imaging protocols out."""
