"""A small RTSP server of one H.264 video: requests as in RFC 2326, packets as in RFC 3550 and RFC 6184."""

import contextlib
import re
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from typing import Literal, NamedTuple

import av
import numpy as np

_CLOCK = 90_000
_LAST_OF_PICTURE = 0x80

Transport = Literal["tcp", "udp"]
End = Literal["bye", "stalled", "lost", "silent"]


class _Video(NamedTuple):
    pictures: list[bytes]
    rate: int
    transport: Transport
    end: End


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, video: _Video):
        super().__init__(("127.0.0.1", 0), _Session)
        self.video, self.closing = video, threading.Event()


class _Session(socketserver.StreamRequestHandler):
    """Answers one client, and sends it the whole video when it asks to play."""

    server: _Server

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            while request := self.rfile.readline().decode().split():
                lines = iter(lambda: self.rfile.readline().decode().strip(), "")
                headers = {key.lower(): value for key, value in (line.split(": ", 1) for line in lines)}
                if self.server.video.end == "silent":
                    self.server.closing.wait()
                    return
                self._answer(request[0], headers)
                if request[0] == "PLAY":
                    self._play()
                    if self.server.video.end == "lost":
                        return

    def _answer(self, method: str, headers: dict[str, str]) -> None:
        status, body = "200 OK", b""
        answer = {"CSeq": headers["cseq"], "Session": "1"}
        if method == "OPTIONS":
            answer["Public"] = "DESCRIBE, SETUP, PLAY, TEARDOWN"
        elif method == "DESCRIBE":
            answer["Content-Type"], body = "application/sdp", self._description()
        elif method == "SETUP":
            answer["Transport"] = headers["transport"]
            ports = re.search(r"client_port=(\d+)", headers["transport"])
            self.port = int(ports[1]) if ports else None
            if (self.port is None) != (self.server.video.transport == "tcp"):
                status = "461 Unsupported Transport"
        answer["Content-Length"] = str(len(body))
        head = "".join(f"{key}: {value}\r\n" for key, value in answer.items())
        self.wfile.write(f"RTSP/1.0 {status}\r\n{head}\r\n".encode() + body)

    def _description(self) -> bytes:
        return (
            "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
            f"m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/{_CLOCK}\r\na=fmtp:96 packetization-mode=1\r\n"
            f"a=framerate:{self.server.video.rate}\r\na=control:track\r\n"
        ).encode()

    def _play(self) -> None:
        number = 0
        for i, picture in enumerate(self.server.video.pictures):
            units = [unit for unit in re.split(b"\0?\0\0\1", picture) if unit]
            for unit in units:
                kind = 96 | (_LAST_OF_PICTURE if unit is units[-1] else 0)
                time = i * _CLOCK // self.server.video.rate
                self._send(struct.pack(">BBHII", 0x80, kind, number, time, 1) + unit, control=False)
                number += 1
        if self.server.video.end == "bye":
            report, bye = struct.pack(">BBHI", 0x80, 201, 1, 1), struct.pack(">BBHI", 0x81, 203, 1, 1)
            self._send(report + bye, control=True)

    def _send(self, packet: bytes, control: bool) -> None:
        if self.port is None:
            self.wfile.write(struct.pack(">cBH", b"$", control, len(packet)) + packet)
        else:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.sendto(packet, ("127.0.0.1", self.port + control))


@contextlib.contextmanager
def serve(
    frames: list[np.ndarray],
    rate: int = 10,
    transport: Transport = "tcp",
    end: End = "bye",
    damaged: int | None = None,
) -> Iterator[str]:
    """Serves a video to each client that asks, while the context lasts.

    Args:
        frames: RGB frames; every fourth is encoded without the ones before.
        rate: Frames per second.
        transport: How packets are sent: within the connection, or beside it.
        end: What follows the last frame: a `bye`, nothing at all (`stalled`), or the connection's end (`lost`); or
            no request is answered in the first place (`silent`).
        damaged: Frame of which only half is sent.

    Yields:
        Its address.
    """
    codec = av.CodecContext.create("libx264", "w")
    codec.height, codec.width = frames[0].shape[:2]
    codec.pix_fmt, codec.framerate, codec.gop_size, codec.max_b_frames = "yuv420p", rate, 4, 0
    pictures = [av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in frames]
    packets = [bytes(packet) for picture in [*pictures, None] for packet in codec.encode(picture)]
    if damaged is not None:
        packets[damaged] = packets[damaged][: len(packets[damaged]) // 2]
    with _Server(_Video(packets, rate, transport, end)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"rtsp://127.0.0.1:{server.server_address[1]}/live"
        finally:
            server.closing.set()
            server.shutdown()
