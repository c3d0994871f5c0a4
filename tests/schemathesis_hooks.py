"""What schemathesis calls while it makes requests (tests/check_clients.py): large numbers of tokens and answers, which are
allowed, would take minutes each and show nothing more."""
import schemathesis


@schemathesis.hook
def map_body(context, body):
    if isinstance(body, dict):
        if ("prompt" in body or "messages" in body) and not body.get("max_tokens") and not body.get("max_completion_tokens"):
            body = {"max_tokens": 4, **body}
        for name, most in (("max_tokens", 4), ("max_completion_tokens", 4), ("n", 3)):
            if type(body.get(name)) is int and most < body[name] <= 9007199254740992:
                body[name] = most
    return body
