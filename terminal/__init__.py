"""The door terminal: it sees the face, sends noise, and opens on nothing but a signed yes."""
