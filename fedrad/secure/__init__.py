"""Secure aggregation: the server learns the sum of the hospitals' adapters, but no single adapter.

The protocol is that of Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS
2017 (doi 10.1145/3133956.3133982). Each hospital adds pairwise masks, which cancel in the sum, and a self mask. Both
secrets are Shamir-shared, so that a round survives hospitals that drop out. "Share" always means a Shamir share here,
and a "survivor" is a hospital whose masked input arrived. There are four stages, and a fifth with pinned identities:

    stage           hospital (``hospital.py``)             server (``server.py``)
    1 advertise     two fresh X25519 public keys           ``build_roster``: relays all keys to all
    2 share keys    sealed shares of its two secrets       ``inboxes``: relays them, can't open them
    3 masked input  fixed-point adapter + masks            ``survivors``: whose input arrived
    (4 confirm      signs the list of survivors            relays the signatures; with pinned identities only)
    5 unmask        self-mask shares of survivors,         ``unmasked_sum``: removes the masks from the sum
                    mask-key shares of dropouts

Guarantee:
    Against an honest-but-curious server together with at most ``colluders`` hospitals that tell it all they know: about
    the other hospitals' inputs it learns only the sum over those that survived. That sum covers at least ``threshold -
    colluders`` of them, so at least two. A hospital that took part learns what the server tells it.
    This is computational security, resting on X25519, HKDF-SHA256, AES-256 and Shamir's scheme over a field of 2^128
    elements.
    With pinned identities (``keys.Identity``) keys and survivors are signed, as in the paper's variant for an active
    server: hospitals refuse a server that replaces keys or shows them different lists of survivors.

Not protected against:
    - Without pinned identities, a server that lies: it relays all keys, so it can replace them by its own and read
      every adapter (man in the middle), or show different lists of survivors to different hospitals and split the sum.
    - Hospitals that send a wrong input (poisoning) or a wrong share. A wrong share is detected and ends the round.
    - What the sum itself reveals. With two hospitals each can subtract its own adapter; sums of successive rounds with
      different survivors differ by few hospitals' contributions. Only differential privacy covers that.
    - Who takes part, who drops out when, and all timing.
    - A hospital whose stored state is set back to an earlier stage: it would answer the same stage twice. Its state
      must be on disk, synced, before the message of that stage leaves.
    - Unchecked terms. The server proposes who takes part, the threshold and the colluders. A hospital must check them
      against its own policy, because a sum over hospitals that the server controls hides nothing.
"""
