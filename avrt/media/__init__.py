"""Media files to clips: a few frames with their times, and mono audio at 16 kHz.

Start in `reader.py` (`read_clip`, `read_image`, `read_audio`, `read_media`); `video.py` and `audio.py` decode,
`errors.py` lists the reasons for which a file is refused, and `geometry.py` says how many pixels and samples become one
token.
"""
