"""Client of OpenAI-compatible model servers, used for traces, evaluation and judges."""
