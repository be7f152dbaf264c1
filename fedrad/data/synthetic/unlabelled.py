# ruff: noqa: E501 (one phrase a line)
"""Phrases that make a report abnormal without any of the fourteen labels. Notation: `phrases`."""

from __future__ import annotations

from fedrad.data.synthetic.phrases import Finding, finding

OTHERS: dict[str, Finding] = {
    "degenerative": finding(
        "bones",
        """
        - | [Degenerative changes|<Degree> degenerative changes|Degenerative disc disease] of the [thoracic|mid thoracic|] spine.
        - | <there_are> [<degree>|multilevel] degenerative changes [of|in|throughout] the [thoracic spine|spine].
        - | [<Degree> degenerative endplate changes|Multilevel spurring|Osteophytes|Bridging osteophytes] of the spine.
        - | Degenerative changes are [present|noted] in the spine.
        - | Thoracic [spondylosis|kyphosis|osteophytes|endplate spurring|disc degeneration].
        - | Arthritic changes of the skeletal structures are noted.
        - | [Arthritic changes|Degenerative changes] of the [spine|shoulders|left shoulder|AC joints].
        """,
        "- | Degenerative changes of the spine[, no acute disease|].",
        chronic=True,
    ),
    "spine curve": finding(
        "bones",
        """
        - | [Scoliosis|Dextroscoliosis|Levoscoliosis|Mild scoliosis|Exaggerated kyphosis] of the [thoracic|thoracolumbar] spine.
        - | <there_is> [dextroscoliosis|levoscoliosis|scoliosis|accentuated kyphosis|dextrocurvature] of the spine.
        - | [Osteopenia|Diffuse osteopenia|Bones are osteopenic|Bone demineralization|The bones are demineralized].
        - | <Chg> [wedge|compression|anterior wedge] deformity of [<level>|a mid thoracic vertebral body].
        - | [Pectus excavatum|Pectus deformity|Spinal fusion hardware|DISH] <seen>.
        - | [ORIF of the <side> clavicle|Cervical fusion hardware|<Side> shoulder arthroplasty|<Side> humeral hardware] noted.
        - | [<Side>|Bilateral] rib deformities [are noted|, possibly old fractures|, likely posttraumatic].
        """,
        "- | [Scoliosis|Kyphosis|Osteopenia][, unchanged|].",
        chronic=True,
    ),
    "aorta": finding(
        "heart",
        """
        - | [The aorta is|Thoracic aorta is|Aorta] [tortuous|mildly tortuous|ectatic|calcified|tortuous and calcified|unfolded].
        - | Tortuous [and calcified|] [aorta|thoracic aorta].
        - | [Atherosclerotic calcification|Atherosclerotic calcifications|Calcification] of the [aortic arch|thoracic aorta|aorta].
        - | [Aortic atherosclerosis|Atherosclerotic disease of the aorta|Mild unfolding of the aorta] <seen>.
        - | There are atherosclerotic changes of the aorta.
        - | [Mild|] aortic [ectasia/tortuosity|ectasia|uncoiling][, unchanged|].
        """,
        "- | [Tortuous aorta|Atherosclerosis][, no acute cardiopulmonary disease|].",
        chronic=True,
    ),
    "upper normal heart": finding(
        "heart",
        """
        - | Heart size [is|at|] [upper limits of normal|at the upper limits of normal|top normal|upper normal].
        - | The heart is at the upper limits of normal in size.
        """,
        "- | Heart size upper limits of normal.",
        chronic=True,
    ),
    "hyperinflation": finding(
        "lungs",
        """
        - | [The lungs are|Lungs are] [hyperinflated|hyperexpanded|hyperexpanded but clear|overexpanded|hyperinflated but clear].
        - | [There is hyperinflation|Hyperaerated lungs|Lungs remain hyperexpanded|Overexpanded lungs]. COPD.
        - | Hyperexpanded lungs with flattened [diaphragms|hemidiaphragms], <likely> [emphysema|COPD].
        - | [Emphysematous changes|Changes of COPD|Bullous emphysema|Emphysema|Apical bullae] <seen>.
        - | [There is hyperinflation of the lungs|Flattening of the diaphragms|Increased AP diameter] <likely> emphysema.
        """,
        """
        - | [COPD|Emphysema|Hyperinflated lungs|Chronic obstructive pulmonary disease] [without|with no] acute [disease|findings].
        - | Hyperexpanded lungs[, suggesting chronic obstructive pulmonary disease|, otherwise clear|].
        """,
        chronic=True,
    ),
    "low volumes": finding(
        "lungs",
        """
        - | [Low lung volumes|Lung volumes are low|Mildly low lung volumes|The lungs are hypoinflated but clear].
        - | Low lung volumes [with|causing] [bronchovascular crowding|vascular crowding].
        - | [There are low lung volumes|Shallow inspiration|Hypoinflated lungs|Low volume study].
        - | The lungs are hypoinflated but [grossly|] clear.
        - | Lung volumes are low. The lungs [are|appear] clear.
        """,
        "- | [Low lung volumes|Hypoinflation|Low volume study] [without|with no] acute [cardiopulmonary|] [findings|disease].",
    ),
    "scar": finding(
        "lungs",
        """
        - | <degree> scarring <where_base>[<tail>|].
        - | <Chg> [biapical|apical|<basilar>|<side> midlung|linear] [scarring|scar|fibrosis].
        - | [Minimal|Mild|Chronic] [parenchymal|linear|lingular] scarring <seen>.
        - | [Chronic|Prominent|Increased|Coarse] [interstitial|bronchovascular|lung] markings[ without focal infiltrate|].
        """,
        "- | [Chronic changes|Scarring|Chronic lung disease] [without|with no] acute [disease|findings].",
        chronic=True,
    ),
    "calcified nodes": finding(
        "lungs",
        """
        - | Calcified [hilar|<side> hilar|mediastinal|subcarinal] [lymph nodes|nodes|lymph node|node][ are noted|].
        - | [Evidence of|Sequela of|Changes of|Stigmata of] [prior|old|remote] granulomatous [disease|infection].
        - | <there_are> calcified [hilar|mediastinal|<side> hilar] lymph nodes[<tail>| from prior granulomatous disease].
        """,
        "- | [Old|Prior|Remote] granulomatous disease[, no acute disease|].",
        chronic=True,
    ),
    "diaphragm": finding(
        "pleura",
        """
        - | [Elevation|Chronic elevation|Eventration] of the [right|left|<side>] hemidiaphragm[<tail>|].
        - | [Small|Moderate|Large|] [hiatal|hiatus] hernia[<tail>|].
        - | [Mild|Chronic|] blunting of the <side> costophrenic [angle|sulcus][<tail>|].
        - | The <side> costophrenic [angle|sulcus] is [blunted|excluded from view].
        - | [Prominent epicardial fat pad|Nipple shadows|Nipple piercings|Contrast in the bowel|Azygos fissure] <seen>.
        """,
        "- | [Small hiatal hernia|Elevated <side> hemidiaphragm][, no acute disease|].",
        chronic=True,
    ),
    "uncertain": finding(
        "lungs",
        """
        - | A [small|tiny] <side> pleural effusion [cannot be excluded|is not excluded|is difficult to exclude].
        - | Question [small|tiny] <side> [pleural effusion|effusion][ versus pleural thickening| or scarring|].
        - | Blunted <side> costophrenic [angle|sulcus] which <maybe> [tiny effusion|scarring|effusion or scarring].
        - | [Increased|Prominent] interstitial markings which <maybe> [edema|mild edema|atypical infection|chronic change].
        - | [Possible|Questionable] [subtle|vague] <side> rib fracture, correlate with point tenderness.
        - | [Possible|Question of|Question|Equivocal] [early|] [pneumonia|developing infection] <where>.
        - | [Early pneumonia|Mild edema|Superimposed infection|A small pneumothorax] [cannot be|is not] [entirely|] excluded.
        - | [Possible|Questionable] nodule [over|in] the <zone>, [may be a nipple shadow|may be overlapping shadows].
        - | [Limited exam|Exam limited|Evaluation limited] [by|due to] [rotation|body habitus|patient motion|overlying soft tissue].
        """,
        "- | [Possible early pneumonia. <follow>|Limited study. No definite acute disease.]",
    ),
    "surgery": finding(
        "other",
        """
        - | [Postoperative changes|Postsurgical changes] of the [<side> chest|cervical spine|<side> shoulder|<side> breast].
        - | [Status post|Prior] [<side> mastectomy|CABG|sternotomy|<side> upper lobectomy|cholecystectomy].
        """,
        "- | Stable postsurgical changes.",
        chronic=True,
    ),
}
