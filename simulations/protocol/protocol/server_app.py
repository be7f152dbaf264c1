"""The server side of this app is the library's. Flower looks for an assignment, not for an import."""

from fedrad.federation import server

app = server.app
