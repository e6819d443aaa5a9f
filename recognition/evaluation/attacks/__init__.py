"""Attacks on ourselves. Each knows everything that is public: the transform, the profile, the model."""
