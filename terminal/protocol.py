"""How a terminal and the server prove to each other who wrote a message. Pure: no I/O, no clock, no
randomness.

Requests and replies carry HTTP message signatures (RFC 9421) made with Ed25519 over a body digest (RFC 9530).
A profile of the standard, not all of it: exactly one signature, a fixed list of covered components, a fixed
list of parameters. Whatever is outside the profile is refused, so a verifier never has to decide what an
unusual message meant.

Keys are raw: a private key is its 32-byte seed, a public key its 32 bytes. Times are Unix seconds.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

LABEL = "lintel"
ALGORITHM = "ed25519"
REQUEST_TAG = "lintel-request"
REPLY_TAG = "lintel-reply"

REQUEST_COMPONENTS = ("@method", "@authority", "@path", "@query", "content-digest")
REPLY_COMPONENTS = ("@status", "content-digest")

CLOCK_WINDOW_S = 60
MAX_REPLY_LIFETIME_S = 120
MAX_HEADER_CHARACTERS = 2048

_DEFAULT_PORTS = {"http": 80, "https": 443}
_NONCE = re.compile(r"[A-Za-z0-9_-]{16,128}")
_KEY_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")

# RFC 8941 dictionaries of one member, in the canonical spelling that a serializer produces.
_SIGNATURE_INPUT = re.compile(
    r"(?P<label>[a-z][a-z0-9_.*-]*)="
    r'(?P<params>\((?P<components>"[a-z@-]+"(?: "[a-z@-]+")*)\)(?P<rest>(?:;[^;,]+)*))'
)
_PARAMETER = re.compile(r';(?P<name>[a-z]+)=(?:"(?P<text>[A-Za-z0-9_.:+/=-]*)"|(?P<number>[0-9]{1,15}))')
_BINARY_MEMBER = re.compile(r"(?P<name>[a-z][a-z0-9_.*-]*)=:(?P<value>[A-Za-z0-9+/]*={0,2}):")


class ProtocolError(Exception):
    """A message that must not be believed. `code` is stable, `message` is for the person who has to mend
    it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


@dataclass(frozen=True)
class SignedRequest:
    """What a verified request says about itself. Whether the nonce was seen before is the server's to
    know."""

    key_id: str
    nonce: str
    created: int


@dataclass(frozen=True)
class SignedReply:
    """What a verified reply says about itself; `nonce` is that of the request it answers."""

    key_id: str
    nonce: str
    created: int
    expires: int


@dataclass(frozen=True)
class _Signature:
    components: tuple[str, ...]
    params: str
    key_id: str
    nonce: str
    created: int
    expires: int | None
    value: bytes


# Keys -------------------------------------------------------------------------------------------------------


def public_key_of(private_key: bytes) -> bytes:
    """The 32-byte public key of a 32-byte seed."""
    return Ed25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()


def key_id_of(public_key: bytes) -> str:
    """A name both sides can compute: the first 16 bytes of SHA-256 of the public key, base64url without
    padding."""
    if len(public_key) != 32:
        raise ProtocolError("key_malformed", "an Ed25519 public key has 32 bytes")
    return base64.urlsafe_b64encode(hashlib.sha256(public_key).digest()[:16]).rstrip(b"=").decode("ascii")


# Requests ---------------------------------------------------------------------------------------------------


def sign_request(
    *,
    method: str,
    url: str,
    body: bytes,
    content_type: str | None,
    key_id: str,
    private_key: bytes,
    created: int,
    nonce: str,
) -> dict[str, str]:
    """The headers that make this request a signed one. `url` is absolute, as the server will see it.

    The digest is always covered, that of an empty body too; the content type is covered when there is a body.
    """
    headers = {"Content-Digest": content_digest(body)}
    if body:
        if not content_type:
            raise ProtocolError("content_type_missing", "a request with a body names its content type")
        headers["Content-Type"] = content_type
    components = _request_components(method=method, url=url, headers=headers, has_body=bool(body))
    params = _serialize_params(
        components=[name for name, _ in components],
        created=created,
        expires=None,
        nonce=nonce,
        key_id=key_id,
        tag=REQUEST_TAG,
    )
    return headers | _signature_headers(components, params, private_key)


def read_claim(headers: Mapping[str, str]) -> SignedRequest:
    """Whose key to look up, and which nonce. Nothing is verified yet: use the answer for nothing else."""
    signature = _read_signature(_lowercase(headers), tag=REQUEST_TAG)
    return SignedRequest(key_id=signature.key_id, nonce=signature.nonce, created=signature.created)


def verify_request(
    *,
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    public_key: bytes,
    now: int,
    window_s: int = CLOCK_WINDOW_S,
) -> SignedRequest:
    """Believe the request or raise `ProtocolError`. The caller must still refuse a nonce it has seen."""
    lowered = _lowercase(headers)
    signature = _read_signature(lowered, tag=REQUEST_TAG)
    components = _request_components(method=method, url=url, headers=lowered, has_body=bool(body))
    _require_coverage(signature, [name for name, _ in components])
    _verify_digest(lowered, body)
    _verify_signature(signature, components, public_key)
    if abs(now - signature.created) > window_s:
        raise ProtocolError(
            "clock_skew",
            f"signed {signature.created - now:+d} s from this clock; {window_s} s are allowed",
        )
    return SignedRequest(key_id=signature.key_id, nonce=signature.nonce, created=signature.created)


# Replies ----------------------------------------------------------------------------------------------------


def sign_reply(
    *,
    status: int,
    body: bytes,
    request_nonce: str,
    key_id: str,
    private_key: bytes,
    created: int,
    expires: int,
) -> dict[str, str]:
    """The headers that make this reply an answer to the one request that carried `request_nonce`."""
    headers = {"Content-Digest": content_digest(body)}
    components = _reply_components(status=status, headers=headers)
    params = _serialize_params(
        components=REPLY_COMPONENTS,
        created=created,
        expires=expires,
        nonce=request_nonce,
        key_id=key_id,
        tag=REPLY_TAG,
    )
    return headers | _signature_headers(components, params, private_key)


def verify_reply(
    *,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    request_nonce: str,
    public_keys: Mapping[str, bytes],
    now: int,
    window_s: int = CLOCK_WINDOW_S,
) -> SignedReply:
    """Believe the reply or raise `ProtocolError`. `public_keys` are the pinned server keys by id; others are
    refused."""
    lowered = _lowercase(headers)
    signature = _read_signature(lowered, tag=REPLY_TAG)
    components = _reply_components(status=status, headers=lowered)
    _require_coverage(signature, REPLY_COMPONENTS)
    if signature.expires is None:
        raise ProtocolError("signature_malformed", "a reply says when it expires")
    public_key = public_keys.get(signature.key_id)
    if public_key is None:
        raise ProtocolError(
            "key_unknown", f"the reply is signed by {signature.key_id}, which is not a pinned key"
        )
    _verify_digest(lowered, body)
    _verify_signature(signature, components, public_key)
    if signature.nonce != request_nonce:
        raise ProtocolError("nonce_mismatch", "the reply answers another request")
    if signature.created > now + window_s:
        raise ProtocolError(
            "clock_skew", f"the reply was signed {signature.created - now} s ahead of this clock"
        )
    if signature.expires - signature.created > MAX_REPLY_LIFETIME_S:
        raise ProtocolError("reply_too_long_lived", f"a reply may live {MAX_REPLY_LIFETIME_S} s at most")
    if now >= signature.expires:
        raise ProtocolError("reply_expired", f"the reply expired {now - signature.expires} s ago")
    return SignedReply(
        key_id=signature.key_id, nonce=signature.nonce, created=signature.created, expires=signature.expires
    )


# The standards ----------------------------------------------------------------------------------------------


def content_digest(body: bytes) -> str:
    """RFC 9530 section 2, with SHA-256."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode('ascii')}:"


def signature_base(components: Sequence[tuple[str, str]], params: str) -> bytes:
    """RFC 9421 section 2.5: one line per covered component, then the parameters; the bytes that are
    signed."""
    lines = [f'"{name}": {value}' for name, value in components]
    lines.append(f'"@signature-params": {params}')
    return "\n".join(lines).encode("ascii")


def target_components(method: str, url: str) -> dict[str, str]:
    """RFC 9421 sections 2.2.1, 2.2.3, 2.2.6 and 2.2.7 for an absolute http(s) address."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ProtocolError("url_malformed", f"not an address: {error}") from error
    if parts.scheme not in _DEFAULT_PORTS or not host:
        raise ProtocolError("url_malformed", "the address must be an absolute http or https one")
    authority = f"[{host}]" if ":" in host else host
    if port is not None and port != _DEFAULT_PORTS[parts.scheme]:
        authority += f":{port}"
    return {
        "@method": method,
        "@authority": authority,
        "@path": parts.path or "/",
        "@query": "?" + parts.query,
    }


def _request_components(
    *, method: str, url: str, headers: Mapping[str, str], has_body: bool
) -> list[tuple[str, str]]:
    lowered = _lowercase(headers)
    target = target_components(method, url)
    names = [*REQUEST_COMPONENTS, "content-type"] if has_body else list(REQUEST_COMPONENTS)
    return [(name, _clean(name, target[name] if name in target else lowered.get(name))) for name in names]


def _reply_components(*, status: int, headers: Mapping[str, str]) -> list[tuple[str, str]]:
    lowered = _lowercase(headers)
    return [
        ("@status", str(status)),
        ("content-digest", _clean("content-digest", lowered.get("content-digest"))),
    ]


def _clean(name: str, value: str | None) -> str:
    if value is None:
        code = (
            "digest_missing" if name == "content-digest" else f"{name.strip('@').replace('-', '_')}_missing"
        )
        raise ProtocolError(code, f"the message has no {name}")
    if not value.isascii() or not value.isprintable():
        raise ProtocolError("component_malformed", f"{name} holds characters that cannot be signed")
    return value


def _lowercase(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value.strip() for name, value in headers.items()}


def _serialize_params(
    *, components: Sequence[str], created: int, expires: int | None, nonce: str, key_id: str, tag: str
) -> str:
    if not _NONCE.fullmatch(nonce):
        raise ProtocolError("nonce_malformed", "a nonce is 16 to 128 characters of base64url")
    if not _KEY_ID.fullmatch(key_id):
        raise ProtocolError("key_malformed", "a key id is 1 to 128 characters of A-Z a-z 0-9 _ . : -")
    if created < 0 or (expires is not None and expires < created):
        raise ProtocolError("time_malformed", "created is a Unix time and expires comes after it")
    covered = " ".join(f'"{name}"' for name in components)
    lifetime = "" if expires is None else f";expires={expires}"
    names = f'nonce="{nonce}";keyid="{key_id}";alg="{ALGORITHM}";tag="{tag}"'
    return f"({covered});created={created}{lifetime};{names}"


def _signature_headers(
    components: Sequence[tuple[str, str]], params: str, private_key: bytes
) -> dict[str, str]:
    value = Ed25519PrivateKey.from_private_bytes(private_key).sign(signature_base(components, params))
    return {
        "Signature-Input": f"{LABEL}={params}",
        "Signature": f"{LABEL}=:{base64.b64encode(value).decode('ascii')}:",
    }


def _read_signature(lowered: Mapping[str, str], *, tag: str) -> _Signature:
    given_input, given_value = lowered.get("signature-input"), lowered.get("signature")
    if not given_input or not given_value:
        raise ProtocolError("signature_missing", "the message carries no signature")
    if len(given_input) > MAX_HEADER_CHARACTERS or len(given_value) > MAX_HEADER_CHARACTERS:
        raise ProtocolError("signature_malformed", "the signature headers are longer than any honest one")
    matched = _SIGNATURE_INPUT.fullmatch(given_input)
    if matched is None:
        raise ProtocolError(
            "signature_malformed", "Signature-Input is not one plain inner list with parameters"
        )
    label, value = _read_binary_member(given_value, "signature_malformed")
    if label != matched["label"]:
        raise ProtocolError("signature_malformed", "Signature and Signature-Input name different signatures")
    parameters = _read_parameters(matched["rest"])
    if parameters.get("alg") != ALGORITHM:
        raise ProtocolError("algorithm_refused", f"the only algorithm is {ALGORITHM}")
    if parameters.get("tag") != tag:
        raise ProtocolError("tag_refused", f"a signature for this use carries the tag {tag}")
    return _Signature(
        components=tuple(name.strip('"') for name in matched["components"].split(" ")),
        params=matched["params"],
        key_id=_text(parameters, "keyid", _KEY_ID),
        nonce=_text(parameters, "nonce", _NONCE),
        created=_number(parameters, "created"),
        expires=_number(parameters, "expires") if "expires" in parameters else None,
        value=value,
    )


def _read_parameters(rest: str) -> dict[str, str | int]:
    parameters: dict[str, str | int] = {}
    position = 0
    while position < len(rest):
        matched = _PARAMETER.match(rest, position)
        if matched is None or matched["name"] in parameters:
            raise ProtocolError("signature_malformed", "a signature parameter is malformed or given twice")
        number = matched["number"]
        parameters[matched["name"]] = matched["text"] if number is None else int(number)
        position = matched.end()
    unknown = set(parameters) - {"created", "expires", "nonce", "keyid", "alg", "tag"}
    if unknown:
        raise ProtocolError(
            "signature_malformed", f"unknown signature parameters: {', '.join(sorted(unknown))}"
        )
    return parameters


def _text(parameters: Mapping[str, str | int], name: str, pattern: re.Pattern[str]) -> str:
    value = parameters.get(name)
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ProtocolError("signature_malformed", f"the signature parameter {name} is missing or malformed")
    return value


def _number(parameters: Mapping[str, str | int], name: str) -> int:
    value = parameters.get(name)
    if not isinstance(value, int):
        raise ProtocolError("signature_malformed", f"the signature parameter {name} is missing or malformed")
    return value


def _read_binary_member(text: str, code: str) -> tuple[str, bytes]:
    matched = _BINARY_MEMBER.fullmatch(text)
    if matched is None:
        raise ProtocolError(code, "expected exactly one name with one byte sequence")
    try:
        return matched["name"], base64.b64decode(matched["value"], validate=True)
    except binascii.Error as error:
        raise ProtocolError(code, f"not base64: {error}") from error


def _require_coverage(signature: _Signature, names: Sequence[str]) -> None:
    if len(signature.components) != len(names) or set(signature.components) != set(names):
        raise ProtocolError("components_missing", f"the signature must cover exactly: {', '.join(names)}")


def _verify_digest(lowered: Mapping[str, str], body: bytes) -> None:
    name, digest = _read_binary_member(lowered["content-digest"], "digest_malformed")
    if name != "sha-256":
        raise ProtocolError("digest_malformed", "the digest must be SHA-256")
    if digest != hashlib.sha256(body).digest():
        raise ProtocolError("digest_mismatch", "the body is not the one that was signed")


def _verify_signature(
    signature: _Signature, components: Sequence[tuple[str, str]], public_key: bytes
) -> None:
    values = dict(components)
    base = signature_base([(name, values[name]) for name in signature.components], signature.params)
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature.value, base)
    except InvalidSignature as error:
        raise ProtocolError(
            "signature_invalid", "the signature does not fit the message and the key"
        ) from error
    except ValueError as error:
        raise ProtocolError("key_malformed", f"not an Ed25519 public key: {error}") from error
