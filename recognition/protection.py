"""A keyed, renewable transform for templates: a secret rotation of the embedding space.

What it gives. A rotation keeps every angle, so scores between templates of one key are exactly the scores between
the embeddings. Templates of two keys are as unrelated as random directions, so two galleries cannot be joined, and
a stolen gallery is renewed by choosing a new key.

What it does not give. **Whoever holds the key inverts it completely**: the rotation is its own secret, not a one-way
function. Whoever knows about D embeddings together with their templates solves for it without the key. It protects
a template at rest, next to encryption and not in place of it; see docs/adr/0004-template-protection.md.
"""

from functools import lru_cache

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from recognition.types import Embedding, ProtectedTemplate

KEY_BYTES = 32
CHACHA_NONCE_BYTES = 16  # a zero nonce is sound here: every (key, dimension) has a cipher key of its own
CACHED_ROTATIONS = (
    8  # current key, the one being rotated away, and room for tests; 2 MiB each at 512 dimensions
)


def protect(embedding: Embedding, *, key: bytes, key_id: str) -> ProtectedTemplate:
    """The embedding, rotated by `key` (32 bytes). Cosines between templates of one key are those of the embeddings."""
    rotated = rotation(key, len(embedding.vector)) @ embedding.vector.astype(np.float64)
    return ProtectedTemplate(vector=_unit(rotated), key_id=key_id)


def rekey(template: ProtectedTemplate, *, old: bytes, new: bytes, new_key_id: str) -> ProtectedTemplate:
    """The same template under another key, without the face and without returning the embedding.

    Raises nothing when `old` is the wrong key: the result is then a template of nobody. Callers pick `old` by
    `template.key_id`.
    """
    dimension = len(template.vector)
    unrotated = rotation(old, dimension).T @ template.vector.astype(np.float64)
    return ProtectedTemplate(vector=_unit(rotation(new, dimension) @ unrotated), key_id=new_key_id)


@lru_cache(maxsize=CACHED_ROTATIONS)
def rotation(key: bytes, dimension: int) -> NDArray[np.float64]:
    """(D,D) orthonormal, uniform over the orthogonal group (Haar) for a uniform key; read-only.

    The same key gives the same matrix on every machine, up to float64 rounding in LAPACK's QR.
    Mezzadri, "How to generate random matrices from the classical compact groups" (2007): QR of a Gaussian matrix is
    Haar-distributed once the signs of R's diagonal are moved into Q.
    """
    if len(key) != KEY_BYTES:
        raise ValueError(f"a gallery key has {KEY_BYTES} bytes, this one has {len(key)}")
    gaussian = _gaussians(key, dimension * dimension, context=f"dimension={dimension}").reshape(
        dimension, dimension
    )
    orthonormal, triangular = np.linalg.qr(gaussian)
    matrix: NDArray[np.float64] = orthonormal * np.sign(np.diag(triangular))  # signs go to the columns
    matrix.setflags(write=False)
    return matrix


def _gaussians(key: bytes, count: int, *, context: str) -> NDArray[np.float64]:
    """`count` standard normal numbers from a ChaCha20 stream under a key derived from `key` (Box-Muller)."""
    derived = HKDF(
        algorithm=SHA256(), length=32, salt=None, info=b"lintel template rotation 1 " + context.encode()
    ).derive(key)
    stream = Cipher(ChaCha20(derived, bytes(CHACHA_NONCE_BYTES)), mode=None).encryptor()
    pairs = (count + 1) // 2
    words = np.frombuffer(stream.update(bytes(16 * pairs)), dtype="<u8") >> np.uint64(11)
    uniform = (words.astype(np.float64) + 0.5) * 2.0**-53  # in (0, 1), never 0: the logarithm needs that
    radius = np.sqrt(-2.0 * np.log(uniform[:pairs]))
    angle = 2.0 * np.pi * uniform[pairs:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float32]:
    return (vector / np.linalg.norm(vector)).astype(np.float32)
