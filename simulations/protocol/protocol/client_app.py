"""The client side of this app is the library's. Flower looks for an assignment, not for an import."""

from fedrad.simulation import client as simulated_client

app = simulated_client.app
