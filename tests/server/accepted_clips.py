"""One tiny clip of everything that must be accepted."""

from __future__ import annotations

from fractions import Fraction

from tests.server.media.clips import Clip

ACCEPTED: dict[str, Clip] = {
    "h264 4:2:0 with sound": Clip(audio=("aac",)),
    "h264 4:2:2": Clip(pixel_format="yuv422p"),
    "h264 4:4:4": Clip(pixel_format="yuv444p"),
    "h264 rgb": Clip(codec="libx264rgb", pixel_format="rgb24"),
    "hevc 4:4:4": Clip(codec="libx265", pixel_format="yuv444p"),
    "av1": Clip(codec="libsvtav1", width=64, height=64, muxer="matroska"),
    "vp8": Clip(codec="libvpx", muxer="webm", audio=("libopus",)),
    "vp9": Clip(codec="libvpx-vp9", muxer="webm"),
    "mpeg-4 in avi": Clip(codec="mpeg4", muxer="avi", audio=("mp3",)),
    "mpeg-2 in ts": Clip(codec="mpeg2video", muxer="mpegts", audio=("mp2",)),
    "mjpeg with pcm": Clip(
        codec="mjpeg",
        pixel_format="yuvj422p",
        muxer="avi",
        full_range=True,
        audio=("pcm_s16le",),
    ),
    "prores": Clip(codec="prores_ks", pixel_format="yuv422p10le", muxer="mov"),
    "gif": Clip(
        codec="gif",
        pixel_format="rgb8",
        muxer="gif",
        time_base=Fraction(1, 100),
        pts=[0, 4, 8, 20, 24, 28],
    ),
    "fragmented mp4": Clip(movflags="frag_keyframe+empty_moov", audio=("aac",)),
    "variable frame rate": Clip(
        time_base=Fraction(1, 90000),
        pts=[0, 3003, 7000, 7100, 20000, 25001],
        options={"bf": "2"},
    ),
    "late start": Clip(
        time_base=Fraction(1, 90000), pts=[45001, 48001, 51001, 60001, 63001, 66001]
    ),
    "odd size": Clip(width=33, height=17, codec="libvpx-vp9", muxer="webm"),
    "one pixel": Clip(width=1, height=1, frames=1, pixel_format="yuv444p"),
    "one frame": Clip(frames=1),
    "three sounds": Clip(muxer="matroska", audio=("aac", "libopus", "flac")),
}
