"""The mathematics of GRPO, without trainer or model.

Start in `loss.py` (`LossConfig`, `grpo_loss`); `advantage.py` turns rewards into advantages, and `temporal_shaping.py`
weighs them by the position in the response. The training step around them is `lightning_modules.grpo`, and sampling is
in `avrt.rollout`.
"""
