"""Secure aggregation: the server learns the sum of the hospitals' adapters and none of them alone.

The protocol is that of Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS
2017 (doi 10.1145/3133956.3133982): pairwise masks that cancel in the sum, a mask of each hospital's own on top, and
Shamir shares of both kinds of secret, so that a round survives hospitals that vanish. It has four stages, and a fifth
with pinned identities:

    stage           hospital (``hospital.py``)             server (``server.py``)
    1 advertise     two fresh X25519 public keys           ``build_roster``: relays all keys to all
    2 share keys    sealed shares of its two secrets       ``inboxes``: relays them, can't open them
    3 masked input  fixed-point adapter + masks            ``survivors``: whose input came
    (4 confirm      signs the list of survivors            relays the signatures; with pinned identities only)
    5 unmask        self-mask shares of survivors,         ``unmasked_sum``: removes the masks from the sum
                    mask-key shares of the vanished

Guarantee:
    Against a server that follows the protocol and keeps notes (honest but curious), together with at most
    ``colluders`` hospitals that tell it all they know: of the other hospitals' inputs it learns the sum over those
    that survived, and nothing else. That sum is over ``threshold - colluders`` hospitals or more, so two at least.
    A hospital that took part learns what the server tells it.
    Computationally: X25519, HKDF-SHA256, AES-256 and Shamir's scheme over a field of 2^128 elements.
    With pinned identities (``keys.Identity``) keys and survivors are signed, as in the paper's variant for an active
    server: a server that swaps keys or tells hospitals different things is refused.

Not protected against:
    - Without pinned identities, a server that lies: it relays all keys, so it can put its own in their place and read
      every adapter (man in the middle), or show different lists of survivors to different hospitals and split the sum.
    - Hospitals that send a wrong input (poisoning) or a wrong share: a wrong share is noticed and ends the round.
    - What the sum itself tells. With two hospitals each can subtract its own; sums of successive rounds with different
      survivors differ by few hospitals' contributions. Only differential privacy covers that.
    - Who takes part, who vanishes when, and the time that anything takes.
    - A hospital whose stored state is set back to an earlier stage: it would answer the same stage twice. Its state
      must be on disk, synced, before the message of that stage leaves.
    - Terms that no hospital looks at. The server proposes who takes part, the threshold and the colluders: a hospital
      must hold them against its own policy, since a sum over the server's friends hides nothing.
"""
