"""An LLM that asks and judges (Appendix C)."""
