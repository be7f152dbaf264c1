# ruff: noqa: E501 (one phrase a line)
"""Phrases for the lungs: opacities and lesions. Rules and notation: `phrases`."""

from __future__ import annotations

from fedrad.data.synthetic.phrases import Finding, finding

OPACITIES: dict[str, Finding] = {
    "opacity": finding(
        "lungs",
        """
        LO | <there_is> <chg> <degree> <texture> opacity <where>.
        LO | <there_are> <chg> <degree> <texture> opacities <where>.
        LO | <Chg> <texture> [opacities|airspace opacities|interstitial opacities] <where><tail>.
        LO | <Chg> <basilar> [airspace|interstitial||lung|parenchymal] [opacity|opacities|opacification]<tail>.
        LO | <there_is> <degree> [patchy|focal|] airspace disease <where>.
        LO | A <texture> infiltrate <seen> <where>.
        LO | In the <lobe> a [patchy|hazy|subtle] infiltrate [is present|has developed].
        LO | [Retrocardiac|Perihilar|<Side> perihilar|Lingular|<Side> suprahilar|<Side> infrahilar] <texture> opacity
        LO | <there_is> increased [opacity|density|opacification] <where>[, only seen on the lateral view|].
        LO | <Texture> density <seen> <where>.
        LO | <there_is> an asymmetric density [over|in] the <zone>[, likely overlapping structures| which may be artifact|].
        LO | <Degree> [retrocardiac|<basilar>|perihilar] airspace disease[<tail>|].
        LO | <there_is> minimal <texture> opacity in the lung bases. The lungs are otherwise grossly clear.
        LO | <Chg> <basilar> opacities which <maybe> [atelectasis|atelectasis or scarring|atelectasis or infection].
        LO | [Vague|Subtle increased] opacity <where> [<likely> overlying soft tissue|is probably vascular|related to summation].
        LO | [Bilateral|Diffuse|Diffuse bilateral|Bibasilar|Scattered] <texture> opacities are [present|again noted|seen].
        LO | [Interval development of|Interval increase in|Persistent|Residual] <basilar> airspace disease.
        LO | Obscuration of the <side> [heart border|hemidiaphragm] by <texture> opacity <where_base>.
        """,
        """
        LO | <Chg> <basilar> airspace disease.
        LO | <Chg> <texture> [opacity|opacities] <where>. <follow>
        LO | <Lobe> [infiltrate|opacity|airspace disease] <maybe> [pneumonia|infection|early pneumonia|aspiration|scarring].
        LO | <Basilar> airspace disease <maybe> [atelectasis or infiltrate|infection|pneumonia or aspiration].
        LO | <Basilar> opacities, <maybe> atelectasis [or|versus|and/or] [infiltrate|infection|pneumonia|scarring].
        LO | [Streaky|Patchy] <basilar> [airspace|] opacities, <maybe> atelectasis.
        LO | [Patchy|Focal|Hazy] <zone> opacity, <maybe> [infection|pneumonia in the appropriate clinical setting].
        LO | <Chg> <basilar> opacities, infection not excluded.
        LO | Nonspecific <texture> opacity <where>.
        """,
        name="the <basilar> opacity",
    ),
    "interstitial": finding(
        "lungs",
        """
        LO | [Diffuse|Bilateral|Coarse|Chronic|Basilar predominant|Reticular] interstitial opacities [bilaterally||<tail>].
        LO | <there_are> <chg> diffuse [reticular|reticulonodular|interstitial] opacities [in both lungs|bilaterally].
        LO | Coarse interstitial opacities throughout the lungs, <likely> [chronic lung disease|pulmonary fibrosis].
        """,
        """
        LO | [Chronic|Bilateral|Diffuse] interstitial opacities, <likely> [fibrosis|chronic interstitial lung disease].
        LO | Interstitial opacities [of uncertain etiology|, chronic in appearance|, <maybe> atypical infection].
        """,
        chronic=True,
    ),
    "scar opacity": finding(
        "lungs",
        """
        LO | <Thin> opacities <where> <likely> [scarring|scar|chronic scarring|fibrosis]<tail>.
        LO | <there_are> <chg> <thin> opacities <where_base>, <likely> scar.
        LO | <Chg> irregular density in the <zone>, <likely> [chronic scarring|postsurgical change].
        """,
        """
        LO | <Basilar> <thin> opacities, <likely> scarring.
        - | [<Side> basilar|Biapical|<Side> midlung] scarring.
        """,
        chronic=True,
    ),
    "atelectasis": finding(
        "lungs",
        """
        AT | <there_is> <chg> <degree> [|subsegmental|focal|linear|platelike|dependent|discoid] atelectasis <where_base>.
        AT | <Degree> [bibasilar|basilar|<basilar>] [|subsegmental|focal|dependent|streaky|bandlike] atelectasis.
        AT | <Chg> <basilar> [|subsegmental|platelike|linear] atelectasis[<tail>|].
        AT | <Thin> areas of atelectasis <seen> <where_base>.
        AT | Low lung volumes with <degree> [bibasilar|<basilar>] atelectasis.
        AT | [Volume loss|Partial collapse] of the <lobe>, <likely> atelectasis.
        AT | [Atelectatic change|Subsegmental atelectasis] <where_base>[ with elevation of the <side> hemidiaphragm|].
        AT | <Degree> atelectasis or [scar|scarring|fibrosis] <where_base>.
        AT | <Degree> [scarring or|scarring and/or] atelectasis <where_base>.
        AT | [Complete|Partial|Essentially complete] collapse of the [<lobe>|<side> lung].
        AT LO | <Basilar> [opacities|opacity] [due to|because of] scarring or [discoid|subsegmental] atelectasis.
        """,
        """
        AT | <Degree> [bibasilar|<basilar>] [|subsegmental|focal] atelectasis.
        AT | <Chg> <basilar> atelectasis, otherwise no acute [cardiopulmonary disease|abnormality].
        AT | Hypoinflation with [bibasilar|<basilar>] [focal|] atelectasis.
        AT | <Degree> atelectasis <where_base>.
        """,
        name="the <basilar> atelectasis",
    ),
    "atelectatic opacity": finding(
        "lungs",
        """
        AT LO | <Thin> opacities <where_base>, <likely> [|subsegmental|focal|dependent|foci of] atelectasis.
        AT LO | <there_are> <chg> <degree> <thin> opacities <where_base> <likely> [|subsegmental|] atelectasis.
        AT LO | <Basilar> <thin> [opacity|opacities] <likely> atelectasis [or|versus|and] [scarring|scar|infiltrate].
        AT LO | <Chg> <thin> opacities <where_base>, atelectasis versus [infiltrate|consolidation|pneumonia|scar].
        AT LO | <Basilar> airspace disease, <likely> atelectasis.
        LO | <there_are> <chg> <degree> <thin> opacities <where_base>.
        LO | <Chg> <thin> [opacity|opacities|density|densities] <where_base><tail>.
        """,
        """
        AT | <Degree> [bibasilar|<basilar>] [|subsegmental|] atelectasis.
        AT LO | <Basilar> [opacity|opacities|airspace disease], <likely> [atelectasis|subsegmental atelectasis].
        AT LO | <Thin> <basilar> opacities <likely> atelectasis [versus|or] [scarring|infiltrate].
        AT LO | Low lung volumes with <basilar> opacities, <likely> atelectasis.
        AT | Low lung volumes with <basilar> atelectasis.
        """,
        name="the <basilar> opacities",
    ),
    "consolidation": finding(
        "lungs",
        """
        CO LO | <there_is> <chg> [dense|focal|patchy|airspace|] consolidation <where>.
        CO LO | <Chg> <lobe> [consolidation|airspace consolidation][<tail>|].
        CO LO | In the interval, consolidation has developed in the <lobe>.
        CO LO | [Bibasilar|Multifocal|<Basilar>|Retrocardiac] [consolidation|consolidations] [is present|are seen|].
        AT CO LO | Consolidation and atelectasis are present in the <base>.
        """,
        """
        LO | <Basilar> airspace disease.
        CO LO | <Chg> <lobe> consolidation.
        CO LO PN | <Lobe> consolidation <likely> pneumonia.
        CO LO | Multilobar airspace consolidation. <follow>
        CO LO | <Lobe> consolidation, <maybe> pneumonia [or aspiration|].
        """,
        name="the <lobe> consolidation",
    ),
    "pneumonia": finding(
        "lungs",
        """
        LO PN | <there_is> [|new] [airspace disease|patchy opacity|focal opacity] in the <lobe> <likely> pneumonia.
        LO | <there_is> [|new] [airspace disease|patchy opacity|airspace opacity|focal infiltrate] in the <lobe>.
        LO | A patchy infiltrate has developed in the <lobe>.
        PN | <there_is> [<lobe>|<basilar>|multifocal] pneumonia.
        LO PN | Rounded dense opacity in the <zone> most suggestive of a rounded pneumonia.
        LO | [Patchy|Focal|Ill-defined|Multifocal] airspace opacity is present <where>.
        """,
        """
        PN | [The|] <lobe> pneumonia.
        PN | [Probable|Likely|Findings consistent with|Developing|Residual|Early|] <lobe> pneumonia.
        LO PN | <Lobe> [airspace disease|opacity|infiltrate] <likely> pneumonia. <follow>
        PN | [Multifocal|Bilateral|<Basilar>] pneumonia. Followup to resolution is recommended.
        LO PN | <Lobe> infiltrate consistent with pneumonia.
        """,
        name="the <lobe> pneumonia",
    ),
}

LESIONS: dict[str, Finding] = {
    "granuloma": finding(
        "lungs",
        """
        LL | <there_is> a <chg> [|<mm>|small|large] calcified granuloma <where>.
        LL | <Chg> [|<mm>|scattered] calcified [granuloma|granulomas] <where>.
        LL | Calcified granuloma <seen> [in|within] the [<zone>|<lobe>|<side> lung base|<side> hilum].
        LL | [Multiple|Scattered|Several|Bilateral] calcified granulomas <are_seen>.
        LL | [<Mm>|Small] [<side> lung|<zone>|<lobe>] granuloma[, unchanged||<tail>].
        LL | A [dense|calcified] nodule <where> [suggests a previous granulomatous process|<likely> granuloma].
        LL | Calcified granuloma <where>. Calcified hilar [lymph nodes|nodes].
        LL | The lungs are clear except for a calcified granuloma <where>.
        LL | The lungs are clear. [A|Stable|There is a] <mm> [<zone>|<side> apical|<side> basilar] granuloma.
        LL LO | <there_is> [rounded|irregular|a small] calcified density <where> <likely> granuloma.
        LL | [Scattered|Bilateral|Numerous] [bilateral|tiny|] granulomas[, unchanged|<tail>|].
        LL LO | [Nodular opacity|Small nodular density|Nodular densities] <where> <likely> a [calcified|] granuloma.
        """,
        """
        LL | Calcified granuloma <where>[, no acute disease|].
        LL | [Old granulomatous disease|Evidence of prior granulomatous infection] with calcified granuloma.
        LL | <Chg> [calcified|] granuloma without acute [disease|cardiopulmonary abnormality].
        """,
        chronic=True,
    ),
    "nodule": finding(
        "lungs",
        """
        LL | <there_is> a <chg> [<mm>|<cm>|small|well-circumscribed|noncalcified|vague] [pulmonary|lung|] nodule <where>.
        LL | <Chg> <mm> nodule <where>.
        LL | [Numerous|Multiple|Several|Scattered] [bilateral|] [pulmonary|lung] nodules <are_seen>[, some calcified|].
        LL | Calcified [nodule|nodules] <where>.
        LL | The lungs are clear. A <mm> <chg> [<zone>|<side> apical|<lobe>] nodule.
        LL | [Fibronodular|Nodular] [scarring|changes] in the <zone>, otherwise clear.
        LL | There are calcified nodules projecting over the <zone>.
        LL | In the interval, a <cm> [diameter|] nodule has developed <where>.
        LL LO | <there_is> a [<mm>|subtle|] nodular [opacity|density] <where>.
        LL | A <cm> nodule projects over the [<zone>|<lobe>].
        """,
        """
        LL | <Chg> [<mm>|] <lobe> nodule. <follow>
        LL | [Multiple|Bilateral] pulmonary nodules, [suspicious for|<likely>] [metastatic disease|metastases].
        LL LO | Nodular opacity <where>. <follow>
        """,
        chronic=True,
    ),
    "mass": finding(
        "lungs",
        """
        LL | <there_is> a <cm> [|spiculated|lobulated|cavitary] mass <where>.
        LL | <Chg> <lobe> mass[, measuring <cm>|].
        LL LO | Masslike [opacity|density] <where>[ measuring <cm>|].
        """,
        """
        LL | <Lobe> mass, [concerning for|suspicious for|worrisome for] [malignancy|neoplasm|lung carcinoma]. <follow>
        LL | <Chg> <lobe> mass. <follow>
        LL LO | Masslike opacity <where>. CT is recommended.
        """,
        chronic=True,
    ),
}
