"""A synthetic audio-visual question set with known accuracy ceilings, small enough for a laptop without a GPU.

Each clip shows one color and plays one pitch, and each question offers two colors crossed with two pitches. So video
and audio together answer every question, either alone one in two, and the text alone one in four.
"""
