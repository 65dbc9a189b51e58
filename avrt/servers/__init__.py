"""Client of OpenAI-compatible model servers."""
