"""The paper's figures and measurements."""
