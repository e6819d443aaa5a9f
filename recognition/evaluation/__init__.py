"""Measuring the recogniser: verification, identification, and attacks on what leaves a terminal."""
