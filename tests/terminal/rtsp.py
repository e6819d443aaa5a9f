"""A network camera of a few lines: RTSP 1.0 (RFC 2326) with RTP/JPEG (RFC 2435) inside the same TCP connection."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time

import cv2
import numpy as np

SIDE = 64  # pixels
PACKET = 1200  # bytes of a JPEG in one RTP packet
RATE_HZ = 25
SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    "m=video 0 RTP/AVP 26\r\na=control:track1\r\n"
)


class NetworkCamera:
    """Shows one grey after the other: `shade` is what it sees now."""

    def __init__(self) -> None:
        self.shade = 60
        self.asked: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._stopping = threading.Event()
        self._viewers: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._welcome, daemon=True)]
        self._threads[0].start()

    @property
    def address(self) -> str:
        return f"rtsp://127.0.0.1:{self._listener.getsockname()[1]}/door"

    def stop(self) -> None:
        """As if somebody pulled its cable."""
        self._stopping.set()
        for each in (self._listener, *self._viewers):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(60)

    def _welcome(self) -> None:
        while not self._stopping.is_set():
            try:
                viewer, _ = self._listener.accept()
            except OSError:
                return
            self._viewers.append(viewer)
            self._threads.append(threading.Thread(target=self._serve, args=(viewer,), daemon=True))
            self._threads[-1].start()

    def _serve(self, viewer: socket.socket) -> None:
        with contextlib.suppress(OSError), viewer.makefile("rb") as lines:
            while request := _read_request(lines):
                method, headers = request
                self.asked.append(method)
                extra, body = "", ""
                if method == "OPTIONS":
                    extra = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
                elif method == "DESCRIBE":
                    extra, body = "Content-Type: application/sdp\r\n", SDP
                elif method == "SETUP":
                    extra = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
                answer = f"RTSP/1.0 200 OK\r\nCSeq: {headers['cseq']}\r\nSession: 1\r\n{extra}"
                viewer.sendall(f"{answer}Content-Length: {len(body)}\r\n\r\n{body}".encode())
                if method == "PLAY":
                    self._play(viewer)
                    return

    def _play(self, viewer: socket.socket) -> None:
        number = 0
        started = time.monotonic()
        while not self._stopping.is_set():
            at = int((time.monotonic() - started) * 90_000)
            for payload, last in _fragments(self.shade):
                head = struct.pack(
                    ">BBHII", 0x80, 26 | (0x80 if last else 0), number & 0xFFFF, at & 0xFFFFFFFF, 7
                )
                viewer.sendall(struct.pack(">cBH", b"$", 0, len(head) + len(payload)) + head + payload)
                number += 1
            self._stopping.wait(1 / RATE_HZ)


def _read_request(lines) -> tuple[str, dict[str, str]] | None:  # type: ignore[no-untyped-def]
    first = lines.readline().decode()
    headers = {}
    while line := lines.readline().decode().strip():
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return (first.split()[0], headers) if first.strip() else None


def _fragments(shade: int) -> list[tuple[bytes, bool]]:
    """One picture as RTP/JPEG payloads: its scan, with the quantization tables in the first of them."""
    picture = np.full((SIDE, SIDE, 3), shade, np.uint8)
    jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
    tables, at = b"", 2
    while jpeg[at + 1] != 0xDA:  # until the scan begins
        length = struct.unpack(">H", jpeg[at + 2 : at + 4])[0]
        if jpeg[at + 1] == 0xDB:
            segment = jpeg[at + 4 : at + 2 + length]
            tables += b"".join(segment[start + 1 : start + 65] for start in range(0, len(segment), 65))
        at += 2 + length
    scan = jpeg[at + 2 + struct.unpack(">H", jpeg[at + 2 : at + 4])[0] : -2]
    found = []
    for offset in range(0, len(scan), PACKET):
        head = struct.pack(">I", offset) + bytes([1, 255, SIDE // 8, SIDE // 8])  # 4:2:0, tables come along
        if offset == 0:
            head += struct.pack(">BBH", 0, 0, len(tables)) + tables
        found.append((head + scan[offset : offset + PACKET], offset + PACKET >= len(scan)))
    return found
