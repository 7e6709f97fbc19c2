"""The least an ASGI application can do: read the body, answer a constant. No JSON, no model."""

HEAD = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"14")],
}
BODY = {"type": "http.response.body", "body": b'{"y_pred":[0]}'}


async def app(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    await send(HEAD)
    await send(BODY)
