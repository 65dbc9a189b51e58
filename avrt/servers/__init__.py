"""Client of OpenAI-compatible model servers, used for traces and for evaluation."""
