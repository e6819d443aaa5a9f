"""What a page does with the frames of its camera, watched from before its first script runs."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page

#: In a page: everything that could draw a frame, encode it, hold it or pass it on notes its name when it is used.
_WATCH = """
  window.frames_ = { used: [], bitmaps: [] };
  const used = (name) => window.frames_.used.push(name);
  const watched = (owner, names) => {
    for (const name of names) {
      const real = owner?.[name];
      if (typeof real !== "function") continue;
      owner[name] = function (...all) { used(name); return Reflect.apply(real, this, all); };
    }
  };
  watched(HTMLCanvasElement.prototype,
    ["getContext", "toBlob", "toDataURL", "captureStream", "transferControlToOffscreen"]);
  watched(HTMLVideoElement.prototype, ["requestPictureInPicture", "captureStream"]);
  watched(URL, ["createObjectURL"]);
  watched(Navigator.prototype, ["sendBeacon"]);
  watched(BroadcastChannel.prototype, ["postMessage"]);
  for (const name of ["OffscreenCanvas", "MediaRecorder", "ImageCapture", "ImageDecoder", "VideoEncoder", "VideoFrame",
    "MediaStreamTrackProcessor", "RTCPeerConnection", "WebSocket", "WebTransport", "SharedWorker", "FileReader"]) {
    const Real = window[name];
    if (!Real) continue;
    window[name] = new Proxy(Real, {
      construct(target, all, made) { used(name); return Reflect.construct(target, all, made); },
    });
  }
  const real = window.createImageBitmap;
  window.createImageBitmap = async (...all) => {
    const bitmap = await real(...all);
    window.frames_.bitmaps.push(bitmap);
    return bitmap;
  };
"""


def watch_frames(page: Page) -> None:
    page.add_init_script(f"{{ {_WATCH} }}")


def frames_of(page: Page) -> dict[str, Any]:
    """`used`: what drew, encoded or held a frame. `taken`: frames that the page had a handle on. `kept`: how many it
    still has one on; the newest may be on its way to the worker."""
    found: dict[str, Any] = page.evaluate(
        "({ used: [...new Set(window.frames_.used)], taken: window.frames_.bitmaps.length,"
        " kept: window.frames_.bitmaps.filter((bitmap) => bitmap.width > 0).length })"
    )
    return found
