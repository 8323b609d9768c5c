"""Patterns of secrets: for each kind, the service and what its secrets look like."""

import re

FRONT = r"(?:(?<![^\W_])|(?<=\\[nrt])|(?<=[\d\[;]m)|(?<=%[\dA-Fa-f]{2}))"
"""What is in front of a token: no letter or digit, an escape, a color, or a URL's code."""
TOKENS = {
    "GitHub": r"gh[pousr]_\w{16,}|github_pat_\w{16,}",
    "GitLab": r"gl(?:pat|dt|ft|soat|rt|cbt|imt|ptt|agent|oas)-[\w-]{16,}",
    "Hugging Face": r"(?:hf|api_org)_\w{16,}",
    "OpenAI, Anthropic and others": r"sk-[\w-]{16,}",
    "Slack": r"(?:xox[abeoprs]|xapp)-[\w-]{10,}",
    "AWS": r"(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}",
    "Google": r"AIza[\w-]{30,}|ya29\.[\w-]{20,}|GOCSPX-[\w-]{20,}",
    "npm": r"npm_[A-Za-z0-9]{36}(?!\w)",
    "PyPI": r"pypi-[\w-]{50,}",
    "Docker": r"dckr_[po]at_[\w-]{20,}",
    "Stripe": r"[rs]k_(?:live|test)_\w{16,}",
    "SendGrid": r"SG\.[\w-]{16,}\.[\w-]{16,}",
    "JSON web token": r"eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*",
}
"""Service -> its tokens, which have a start of their own."""

GAP = r"(?:\s|\\[nr])+"
PLACES = {
    "private key": r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----"
    rf"(?:{GAP}(?:(?:Proc-Type|DEK-Info|Version|Comment): [^\n\\]+|[A-Za-z0-9+/=]{{16,}}))*"
    rf"(?:{GAP}[A-Za-z0-9+/=]*(?:{GAP})?-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----)?",
    "HTTP header": r"(?i:(?<=bearer )|(?<=authorization: basic )|(?<=authorization: token )"
    r"|(?<=authorization\": \"basic ))[\w.~+/=-]{8,}",
    "user and password in a URL": r"(?<=://)(?!git@)[^\s/?#\"'\\<>]+(?=@)",
    "value of a query": r"(?i:(?<=[?&]token=)|(?<=[?&]access_token=)|(?<=[?&]sig=)"
    r"|(?<=[?&]key=)|(?<=[?&]api_key=)|(?<=[?&]password=)|(?<=[?&]signature=)"
    r"|(?<=[?&]x-amz-signature=))[^\s&#\"'\\]{8,}",
    "variable of the environment": r"(?:(?<=TOKEN=)|(?<=SECRET=)|(?<=PASSWORD=)|(?<=PASSWD=)"
    r"|(?<=API_KEY=)|(?<=ACCESS_KEY=)|(?<=SECRET_KEY=)|(?<=PRIVATE_KEY=))"
    r"(?=[\"']?[\w+/])[\"']?[^\s\"'\\$;&|()<>{}]{8,}",
}
"""Place -> what stands there, whatever it looks like."""

SECRET = re.compile(f"{FRONT}(?:{'|'.join(TOKENS.values())})|{'|'.join(PLACES.values())}")
