"""The wire protocol against published vectors, an independent implementation, and a table of attacks."""

import base64
import datetime
from types import SimpleNamespace

import http_message_signatures as referee
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from terminal import protocol
from terminal.protocol import ProtocolError

# RFC 9421 appendix B.1.4, test-key-ed25519.
RFC_PRIVATE_PEM = b"""-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIJ+DYvh6SEqVTm50DFtMDoQikTmiCqirVv9mWG9qfSnF
-----END PRIVATE KEY-----
"""
RFC_PUBLIC_PEM = b"""-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=
-----END PUBLIC KEY-----
"""

NOW = 1_795_000_000
SEED = bytes(range(32))
PUBLIC = protocol.public_key_of(SEED)
SERVER_SEED = bytes(range(32, 64))
SERVER_PUBLIC = protocol.public_key_of(SERVER_SEED)
NONCE = "bm9uY2Utbm9uY2Utbm9uY2U"
URL = "https://lintel.example/api/v1/attempts?trial=1"
BODY = b"\x00\x01 not a picture"
CAPTURE = "application/vnd.lintel.capture"


def signed(*, method="POST", url=URL, body=BODY, content_type=CAPTURE, created=NOW, nonce=NONCE, seed=SEED):
    return protocol.sign_request(
        method=method,
        url=url,
        body=body,
        content_type=content_type,
        key_id="door-1",
        private_key=seed,
        created=created,
        nonce=nonce,
    )


def verified(headers, *, method="POST", url=URL, body=BODY, public_key=PUBLIC, now=NOW):
    return protocol.verify_request(
        method=method, url=url, headers=headers, body=body, public_key=public_key, now=now
    )


def replied(
    *, status=200, body=b'{"granted": true}', nonce=NONCE, created=NOW, expires=NOW + 5, seed=SERVER_SEED
):
    return protocol.sign_reply(
        status=status,
        body=body,
        request_nonce=nonce,
        key_id="server-1",
        private_key=seed,
        created=created,
        expires=expires,
    )


def believed(headers, *, status=200, body=b'{"granted": true}', nonce=NONCE, keys=None, now=NOW):
    return protocol.verify_reply(
        status=status,
        headers=headers,
        body=body,
        request_nonce=nonce,
        public_keys={"server-1": SERVER_PUBLIC} if keys is None else keys,
        now=now,
    )


# Published vectors


def test_the_signature_base_of_rfc_9421_b_2_6_is_signed_as_published():
    components = [
        ("date", "Tue, 20 Apr 2021 02:07:55 GMT"),
        ("@method", "POST"),
        ("@path", "/foo"),
        ("@authority", "example.com"),
        ("content-type", "application/json"),
        ("content-length", "18"),
    ]
    params = (
        '("date" "@method" "@path" "@authority" "content-type" "content-length")'
        ';created=1618884473;keyid="test-key-ed25519"'
    )
    private = serialization.load_pem_private_key(RFC_PRIVATE_PEM, None)
    public = serialization.load_pem_public_key(RFC_PUBLIC_PEM)
    assert isinstance(private, Ed25519PrivateKey) and isinstance(public, Ed25519PublicKey)
    assert protocol.public_key_of(private.private_bytes_raw()) == public.public_bytes_raw()
    signature = private.sign(protocol.signature_base(components, params))
    assert base64.b64encode(signature) == (
        b"wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw=="
    )


def test_the_content_digest_is_that_of_rfc_9530():
    assert protocol.content_digest(b'{"hello": "world"}\n') == (
        "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"
    )


@pytest.mark.parametrize(
    ("url", "authority", "path", "query"),
    [
        ("https://www.Example.com:443/path?param=value", "www.example.com", "/path", "?param=value"),
        ("http://www.example.com:8000", "www.example.com:8000", "/", "?"),
        ("http://[::1]:8000/a%2Fb?", "[::1]:8000", "/a%2Fb", "?"),
    ],
)
def test_target_components_follow_rfc_9421_section_2_2(url, authority, path, query):
    components = protocol.target_components("GET", url)
    assert components == {"@method": "GET", "@authority": authority, "@path": path, "@query": query}


# An independent implementation as referee


class Keys(referee.HTTPSignatureKeyResolver):
    def __init__(self, seed):
        self.private = Ed25519PrivateKey.from_private_bytes(seed)

    def resolve_private_key(self, key_id):
        return self.private

    def resolve_public_key(self, key_id):
        return self.private.public_key()


def test_another_implementation_verifies_our_request():
    headers = signed(created=int(datetime.datetime.now(datetime.UTC).timestamp()))
    message = SimpleNamespace(method="POST", url=URL, headers=headers)
    verifier = referee.HTTPMessageVerifier(
        signature_algorithm=referee.algorithms.ED25519, key_resolver=Keys(SEED)
    )
    (result,) = verifier.verify(message, body=BODY)
    assert result.parameters["nonce"] == NONCE


def test_another_implementation_verifies_our_reply():
    now = int(datetime.datetime.now(datetime.UTC).timestamp())
    body = b"{}"
    message = SimpleNamespace(
        status_code=202, headers=replied(status=202, body=body, created=now, expires=now + 60)
    )
    verifier = referee.HTTPMessageVerifier(
        signature_algorithm=referee.algorithms.ED25519, key_resolver=Keys(SERVER_SEED)
    )
    (result,) = verifier.verify(message, body=body)
    assert result.parameters["nonce"] == NONCE


def test_we_verify_a_request_that_another_implementation_signed():
    message = SimpleNamespace(method="POST", url=URL, headers={"Content-Type": CAPTURE})
    signer = referee.HTTPMessageSigner(
        signature_algorithm=referee.algorithms.ED25519, key_resolver=Keys(SEED)
    )
    message.headers["Content-Digest"] = protocol.content_digest(BODY)
    signer.sign(
        message,
        key_id="door-1",
        created=datetime.datetime.fromtimestamp(NOW, datetime.UTC),
        nonce=NONCE,
        label="other",
        tag=protocol.REQUEST_TAG,
        use_existing_digest=True,
        covered_component_ids=(
            "content-type",
            "@query",
            "@path",
            "@authority",
            "@method",
            "content-digest",
        ),
    )
    assert verified(message.headers) == protocol.SignedRequest(key_id="door-1", nonce=NONCE, created=NOW)


# Honest messages


def test_an_honest_request_is_believed():
    headers = signed()
    assert protocol.read_claim(headers).key_id == "door-1"
    assert verified(headers) == protocol.SignedRequest(key_id="door-1", nonce=NONCE, created=NOW)


def test_an_honest_request_without_a_body_covers_the_digest_of_nothing():
    headers = signed(method="GET", body=b"", content_type=None)
    assert "Content-Type" not in headers
    assert verified(headers, method="GET", body=b"").nonce == NONCE


def test_header_names_are_read_in_any_case():
    assert verified({name.upper(): value for name, value in signed().items()}).nonce == NONCE


def test_an_honest_reply_is_believed():
    assert believed(replied()).expires == NOW + 5


def test_key_ids_are_the_same_on_both_sides_and_differ_between_keys():
    assert protocol.key_id_of(PUBLIC) == protocol.key_id_of(PUBLIC)
    assert protocol.key_id_of(PUBLIC) != protocol.key_id_of(SERVER_PUBLIC)


@given(body=st.binary(max_size=200), other=st.binary(max_size=200))
def test_no_other_body_passes_under_the_same_signature(body, other):
    headers = signed(body=body)
    if body == other:
        assert verified(headers, body=other).key_id == "door-1"
    else:
        with pytest.raises(ProtocolError):
            verified(headers, body=other)


# Attacks on requests


def without(headers, name):
    return {key: value for key, value in headers.items() if key != name}


def replaced(headers, name, old, new):
    assert old in headers[name]
    return headers | {name: headers[name].replace(old, new, 1)}


def attack_cases():
    honest = signed()
    yield "the method is changed", honest, {"method": "PUT"}, "signature_invalid"
    yield "the host is changed", honest, {"url": URL.replace("lintel", "evil")}, "signature_invalid"
    yield "the port is changed", honest, {"url": URL.replace(".example", ".example:444")}, "signature_invalid"
    yield "the path is changed", honest, {"url": URL.replace("attempts", "people")}, "signature_invalid"
    yield "the query is changed", honest, {"url": URL.replace("=1", "=2")}, "signature_invalid"
    yield "the query is dropped", honest, {"url": URL.split("?")[0]}, "signature_invalid"
    yield "a byte of the body is changed", honest, {"body": BODY[:-1] + b"!"}, "digest_mismatch"
    yield "the body is dropped", honest, {"body": b""}, "components_missing"
    yield (
        "body and digest are changed together",
        honest | {"Content-Digest": protocol.content_digest(b"x")},
        {"body": b"x"},
        "signature_invalid",
    )
    yield "the content type is changed", honest | {"Content-Type": "image/jpeg"}, {}, "signature_invalid"
    yield "the content type is dropped", without(honest, "Content-Type"), {}, "content_type_missing"
    yield "the digest is dropped", without(honest, "Content-Digest"), {}, "digest_missing"
    yield (
        "the digest uses a broken algorithm",
        replaced(honest, "Content-Digest", "sha-256", "md5"),
        {},
        "digest_malformed",
    )
    yield "the signature is dropped", without(honest, "Signature"), {}, "signature_missing"
    yield "the signature input is dropped", without(honest, "Signature-Input"), {}, "signature_missing"
    yield "nothing is signed", {}, {}, "signature_missing"
    for component in (*protocol.REQUEST_COMPONENTS, "content-type"):
        yield (
            f"{component} is no longer covered",
            replaced(honest, "Signature-Input", f'"{component}"', '"date"') | {"Date": "x"},
            {},
            "components_missing",
        )
    yield (
        "a component is covered twice",
        replaced(honest, "Signature-Input", '"@method"', '"@method" "@method"'),
        {},
        "components_missing",
    )
    yield (
        "a component carries a parameter",
        replaced(honest, "Signature-Input", '"@query"', '"@query";req'),
        {},
        "signature_malformed",
    )
    yield (
        "created is moved",
        replaced(honest, "Signature-Input", str(NOW), str(NOW + 1)),
        {},
        "signature_invalid",
    )
    yield (
        "created is dropped",
        replaced(honest, "Signature-Input", f";created={NOW}", ""),
        {},
        "signature_malformed",
    )
    yield (
        "the nonce is changed",
        replaced(honest, "Signature-Input", NONCE, NONCE[::-1]),
        {},
        "signature_invalid",
    )
    yield "the nonce is short", replaced(honest, "Signature-Input", NONCE, "short"), {}, "signature_malformed"
    yield (
        "the key id is changed",
        replaced(honest, "Signature-Input", "door-1", "door-2"),
        {},
        "signature_invalid",
    )
    yield (
        "the algorithm is changed",
        replaced(honest, "Signature-Input", "ed25519", "none"),
        {},
        "algorithm_refused",
    )
    yield (
        "the algorithm is dropped",
        replaced(honest, "Signature-Input", ';alg="ed25519"', ""),
        {},
        "algorithm_refused",
    )
    yield (
        "the tag is that of a reply",
        replaced(honest, "Signature-Input", protocol.REQUEST_TAG, protocol.REPLY_TAG),
        {},
        "tag_refused",
    )
    yield (
        "a parameter is unknown",
        replaced(honest, "Signature-Input", ";tag", ";x=1;tag"),
        {},
        "signature_malformed",
    )
    yield (
        "a parameter is given twice",
        replaced(honest, "Signature-Input", ";nonce", f";created={NOW};nonce"),
        {},
        "signature_malformed",
    )
    yield (
        "a second signature is added",
        honest | {"Signature-Input": f"{honest['Signature-Input']}, {honest['Signature-Input']}"},
        {},
        "signature_malformed",
    )
    yield "the labels differ", replaced(honest, "Signature", "lintel=", "other="), {}, "signature_malformed"
    yield "the signature is not base64", honest | {"Signature": "lintel=:A:"}, {}, "signature_malformed"
    yield "the signature is short", honest | {"Signature": "lintel=:AAAA:"}, {}, "signature_invalid"
    yield (
        "the headers are enormous",
        honest | {"Signature-Input": honest["Signature-Input"] + ";x=" + "1" * 5000},
        {},
        "signature_malformed",
    )
    yield "another key signed it", signed(seed=SERVER_SEED), {}, "signature_invalid"
    yield "the key on file is not a key", honest, {"public_key": b"short"}, "key_malformed"
    yield "the clock is ten minutes behind", honest, {"now": NOW + 600}, "clock_skew"
    yield "the clock is ten minutes ahead", honest, {"now": NOW - 600}, "clock_skew"
    yield "the address is relative", honest, {"url": "/api/v1/attempts"}, "url_malformed"


ATTACKS = list(attack_cases())


@pytest.mark.parametrize(
    ("headers", "changes", "code"), [a[1:] for a in ATTACKS], ids=[a[0] for a in ATTACKS]
)
def test_an_attacked_request_is_refused_when(headers, changes, code):
    with pytest.raises(ProtocolError) as refusal:
        verified(headers, **changes)
    assert refusal.value.code == code


def test_a_request_at_the_edge_of_the_clock_window_passes_and_one_second_later_does_not():
    assert verified(signed(), now=NOW + 60).created == NOW
    with pytest.raises(ProtocolError, match="clock_skew"):
        verified(signed(), now=NOW + 61)


def test_a_line_break_in_a_signed_header_cannot_forge_a_second_line():
    with pytest.raises(ProtocolError, match="component_malformed"):
        signed(content_type='x\n"@method": GET')


# Attacks on replies


def reply_cases():
    honest = replied()
    yield "the status is changed", honest, {"status": 202}, "signature_invalid"
    yield "the body is changed", honest, {"body": b'{"granted": !rue}'}, "digest_mismatch"
    yield (
        "body and digest are changed together",
        honest | {"Content-Digest": protocol.content_digest(b"{}")},
        {"body": b"{}"},
        "signature_invalid",
    )
    yield "it answers another request", honest, {"nonce": NONCE[::-1]}, "nonce_mismatch"
    yield "it has expired", honest, {"now": NOW + 5}, "reply_expired"
    yield "it comes from the future", replied(created=NOW + 61, expires=NOW + 66), {}, "clock_skew"
    yield "it lives for an hour", replied(expires=NOW + 3600), {}, "reply_too_long_lived"
    yield (
        "it is signed by a key that is not pinned",
        honest,
        {"keys": {"server-2": SERVER_PUBLIC}},
        "key_unknown",
    )
    yield "no key is pinned", honest, {"keys": {}}, "key_unknown"
    yield "it is signed by the terminal's own key", replied(seed=SEED), {}, "signature_invalid"
    yield "it is not signed", {}, {}, "signature_missing"
    yield "it is a request signature turned round", signed(), {"body": BODY}, "tag_refused"
    yield (
        "its end is taken out",
        replaced(honest, "Signature-Input", f";expires={NOW + 5}", ""),
        {},
        "signature_malformed",
    )
    yield (
        "its end is moved",
        replaced(honest, "Signature-Input", str(NOW + 5), str(NOW + 50)),
        {},
        "signature_invalid",
    )
    yield (
        "the status is no longer covered",
        replaced(honest, "Signature-Input", '"@status" ', ""),
        {},
        "components_missing",
    )


REPLY_ATTACKS = list(reply_cases())


@pytest.mark.parametrize(
    ("headers", "changes", "code"), [a[1:] for a in REPLY_ATTACKS], ids=[a[0] for a in REPLY_ATTACKS]
)
def test_an_attacked_reply_is_refused_when(headers, changes, code):
    with pytest.raises(ProtocolError) as refusal:
        believed(headers, **changes)
    assert refusal.value.code == code
