"""A self-made audio-visual question set with known ceilings, small enough for a laptop without a GPU.

Each clip shows one colour and sounds one pitch, and each question offers two colours crossed with two pitches.
So picture and sound together answer every question, either alone one in two, and the text alone one in four.
"""
