# ruff: noqa: E501 (one phrase a line)
"""Phrases for heart, vessels, pleura, bones and devices. Rules and notation: `phrases`."""

from __future__ import annotations

from fedrad.data.synthetic.phrases import Finding, finding

HEART: dict[str, Finding] = {
    "cardiomegaly": finding(
        "heart",
        """
        CM | <Chg> <growth> cardiomegaly.
        CM | The heart is <mildly> enlarged[<tail>|].
        CM | Heart size is <mildly> enlarged[, stable|].
        CM | <growth> cardiac enlargement[<tail>|].
        CM | [The heart is|Heart is|Heart size is|Heart remains] [large|slightly large|borderline in size|borderline enlarged].
        CM | <there_is> [stable|] <growth> cardiomegaly [with unfolded aorta|without pulmonary edema|].
        CM | Cardiomegaly is [present|again noted|unchanged].
        CM | Heart size mildly enlarged for technique, stable mediastinal contours.
        CM | [Stable|Normal] [cardiomediastinal silhouette|mediastinal contour] with <growth> cardiomegaly.
        CM | [Interval increase in heart size|Heart is slightly large|The heart is large|Borderline heart size][, stable|].
        """,
        """
        CM | <Chg> <growth> cardiomegaly.
        CM | Cardiomegaly[, no acute pulmonary findings| without acute cardiopulmonary disease| without heart failure].
        CM | <growth> cardiomegaly, [clear lungs|no acute disease|otherwise negative].
        CM | [Borderline heart size|Mild cardiac enlargement][, stable|].
        """,
        chronic=True,
    ),
    "silhouette": finding(
        "heart",
        """
        CM EC | The cardiac silhouette is <mildly> enlarged[<tail>|].
        CM EC | <Chg> [enlarged cardiac silhouette|enlargement of the cardiac silhouette].
        CM EC | [The cardiomediastinal silhouette is|Cardiomediastinal silhouette] <mildly> enlarged[, stable|].
        CM EC | <there_is> <chg> [mild|moderate|] enlargement of the [cardiac|cardiomediastinal] silhouette.
        """,
        """
        CM | <Chg> <growth> cardiomegaly.
        CM | Cardiomegaly without [overt|] edema.
        CM EC | Enlarged cardiac silhouette[, cardiomegaly versus pericardial effusion|].
        """,
        chronic=True,
    ),
    "mediastinum": finding(
        "heart",
        """
        EC | [The mediastinum is|The mediastinal silhouette is|Superior mediastinum is] [widened|prominent|mildly widened].
        EC | <there_is> [widening of the mediastinum|mediastinal widening|mild prominence of the mediastinum].
        EC | <Chg> [prominence of the superior mediastinum|right paratracheal prominence|widened mediastinum].
        EC | [Stable|Unchanged|] right paratracheal [prominence|fullness|soft tissue prominence], <likely> [vessels|adenopathy].
        EC | Prominence of the [superior|upper] mediastinum, [likely vascular|stable|related to rotation|likely fat].
        """,
        """
        EC | Widened mediastinum, <maybe> [vascular structures|adenopathy|mediastinal fat]. <follow>
        EC | <Chg> mediastinal [widening|prominence].
        """,
        chronic=True,
    ),
    "edema": finding(
        "vessels",
        """
        ED | <there_is> <chg> [mild|moderate|] [interstitial|pulmonary|pulmonary interstitial|alveolar] edema.
        ED | [Mild|Central|Moderate|<Chg>|] pulmonary vascular congestion.
        ED | <there_is> vascular congestion[ in the hilar areas| and cephalization| without overt edema|].
        ED LO | [Bilateral|Perihilar|Diffuse] [interstitial|hazy|airspace] opacities <likely> [pulmonary|interstitial] edema.
        ED | Prominence of the [central|] pulmonary vasculature [with vascular congestion|consistent with congestion].
        ED | Kerley B lines and [indistinct|engorged] vessels, <likely> [interstitial edema|mild failure with edema].
        ED | [Pulmonary venous engorgement|Vascular engorgement|Mild vascular prominence] with [interstitial|mild|] edema.
        """,
        """
        ED | <Chg> [mild|] [interstitial edema|pulmonary edema|vascular congestion].
        ED | [Findings of|Mild|] congestive heart failure with [pulmonary|interstitial] edema.
        CM ED | Cardiomegaly [and|with] [pulmonary vascular congestion|mild edema|interstitial edema].
        ED LO | Bilateral interstitial opacities <likely> edema.
        """,
        name="pulmonary edema",
    ),
}

PLEURA: dict[str, Finding] = {
    "effusion": finding(
        "pleura",
        """
        PE | <there_is> a <chg> <amount> <side> [pleural effusion|effusion].
        PE | <there_are> [small|tiny|moderate|small|] bilateral pleural effusions[, <side> greater than <other>|].
        PE | <Chg> <amount> <side> pleural [effusion|fluid collection|fluid].
        PE | Blunting of the <side> costophrenic [angle|sulcus] <likely> [a|] [small|] [pleural|] effusion.
        PE | <Amount> <side> pleural effusion <seen>[<tail>|].
        PE | [Layering|Loculated|Free-flowing|Residual] <side> pleural effusion.
        PE | [Bilateral|Small bilateral|Right greater than left] pleural fluid.
        PE | [The <side>|<Side>] costophrenic [angle|sulcus] is blunted. [Small|] <side> [effusion|pleural fluid].
        PE LO | <Basilar> opacity with associated [small|] pleural effusion.
        AT PE | <Side> pleural effusion with [adjacent|underlying|compressive|associated] atelectasis.
        """,
        """
        PE | <Chg> <amount> <side> pleural effusion.
        PE | [Small|Tiny|] bilateral pleural effusions.
        AT PE | <Amount> <side> pleural effusion with <side> basilar atelectasis.
        LO PE | <Basilar> airspace disease and [small|] <side> pleural effusion.
        """,
        name="the <side> pleural effusion",
    ),
    "pneumothorax": finding(
        "pleura",
        """
        PX | <there_is> a <chg> [small|tiny|moderate|large|] <side> [apical|] pneumothorax[ measuring <cm>|].
        PX | <Chg> [small|moderate|residual|] <side> [apical|basilar|] pneumothorax.
        PX | A [large|small] pleural air collection is present on the <side>.
        PX PE | <Side> hydropneumothorax.
        """,
        """
        PX | <Chg> [small|moderate|large|] <side> [apical|] pneumothorax.
        PX | <Side>-sided pneumothorax. Findings were called to the referring [physician|team].
        """,
        name="the <side> pneumothorax",
    ),
    "pleural thickening": finding(
        "pleura",
        """
        PO | <there_is> <degree> [biapical|<side> apical|apical|<side>] pleural thickening[<tail>|].
        PO | <Chg> [biapical|<side> apical|<side>] pleural [thickening|scarring|plaque|parenchymal scarring].
        PO | Blunting of the <side> costophrenic [angle|sulcus] <likely> pleural thickening.
        PO | [Calcified|Bilateral|] pleural plaques [bilaterally|are noted|are present].
        PO | [<Side> apical cap|Fissural thickening|Pleural thickening along the <side> lateral chest wall][<tail>|].
        """,
        """
        PO | [Biapical|<Side>|Chronic|Stable] pleural thickening.
        PO | Pleural plaques [consistent with prior asbestos exposure|].
        """,
        chronic=True,
    ),
}

BONES: dict[str, Finding] = {
    "fracture": finding(
        "bones",
        """
        FX | [Old|Healed|Remote|Chronic|Old healed] [<side>|] [rib|clavicle|clavicular] [fracture|fractures] <are_seen>.
        FX | <there_is> [an old|a healed|an acute|a nondisplaced|a minimally displaced] fracture of the <side> <rib> rib.
        FX | [Healed|Remote|Deformity of prior|Old] <side> [posterior|lateral|] <rib> rib [fracture|fractures][<tail>|].
        FX | [Displaced|Nondisplaced|Healing] fracture of the [mid|distal|] <side> [clavicle|humerus|scapula].
        FX | [Multiple|Several] [old|healed|age-indeterminate|] <side> rib fractures.
        FX | Compression fracture of [<level>|the mid thoracic spine][, age indeterminate|, unchanged|].
        """,
        """
        FX | [Acute|Nondisplaced|Age-indeterminate|Displaced] <side> <rib> rib fracture.
        FX | Old <side> rib fractures[, no acute disease|].
        FX | <Side> [clavicle|humeral|clavicular] fracture.
        """,
        chronic=True,
    ),
}

DEVICES: dict[str, Finding] = {
    "sternotomy": finding(
        "devices",
        """
        SD | [Median|Midline|] sternotomy [wires|sutures] [are intact|are noted||and mediastinal clips are present].
        SD | [Intact|Prior] median sternotomy wires[ and CABG clips| and coronary bypass clips| and surgical clips|].
        SD | Patient is status post [CABG|median sternotomy|valve replacement] with [intact|] sternal wires.
        SD | [Prosthetic|Aortic|Mitral] valve [prosthesis|replacement] <seen>[ with sternotomy wires|].
        """,
        "- | [Postsurgical changes of the chest|Status post CABG][, no acute disease|].",
        chronic=True,
    ),
    "clips": finding(
        "devices",
        """
        SD | Surgical clips [in the right upper quadrant|are seen in the <side> axilla|project over the <zone>|in the abdomen].
        SD | [Cholecystectomy|Right upper quadrant|Mediastinal|<Side> axillary|Gallbladder fossa] [clips|surgical clips]<tail>.
        SD | <there_are> surgical clips in the [upper abdomen|right upper quadrant|mediastinum|neck|<side> breast].
        SD | [Clips|Surgical clips] in the right upper quadrant consistent with [prior|] cholecystectomy.
        SD | [Embolization coils|Coronary artery stents|Vascular stent|Abdominal stent|Surgical suture material] <are_seen>.
        """,
        "- | Postsurgical changes[, no acute abnormality|].",
        chronic=True,
    ),
    "pacemaker": finding(
        "devices",
        """
        SD | [<Side>|Left|Left-sided] [chest wall|dual-lead|dual chamber|subclavian|] [pacemaker|ICD|pacer|AICD]<tail>.
        SD | [Left|<Side>] chest [pacemaker|cardiac generator|ICD] with leads in the right atrium and right ventricle.
        SD | Cardiac [pacemaker|defibrillator] leads [are intact|overlie the right heart|in stable position|remain in place].
        SD | An electronic cardiac device overlies the left chest wall[ with intact leads|].
        """,
        "SD | [Stable|Left-sided|Dual-lead] [pacemaker|ICD] in [satisfactory|stable] position.",
        chronic=True,
    ),
    "line": finding(
        "devices",
        """
        SD | [<Side>|Right] [PICC|PICC line|IJ catheter|subclavian catheter|central venous catheter|central line] <tip>.
        SD | <there_is> a [<side>|right] [chest port|chest port|IJ central venous catheter|PICC line] with <tip>.
        SD | [<Side>|Right]-sided [port|chest port|Port-A-Cath|hemodialysis catheter|dialysis catheter] with <tip>.
        SD | [Stable|Interval placement of|Again seen is a|Unchanged] <side> [chest port|PICC|central line] with <tip>.
        SD | [Ventriculoperitoneal shunt|Shunt] [tubing|catheter] [overlies the <side> chest|traverses the chest].
        """,
        """
        SD | [<Side>|Right] [PICC|port|central line] with <tip>. No pneumothorax.
        SD | [Satisfactory|Stable] position of the <side> central venous catheter.
        """,
        name="",
    ),
    "tube": finding(
        "devices",
        """
        SD | [Endotracheal|ET|Tracheostomy] tube tip [<cm> above the carina|terminates above the carina|in good position].
        SD | [Nasogastric|Enteric|Feeding|NG|Dobbhoff] tube [passes below the diaphragm|courses into the stomach<tail>].
        SD | <Side> chest tube [in place|remains in place|again noted|with tip at the apex].
        SD | [External monitor leads|EKG leads|Monitoring leads] overlie the chest.
        SD | [Tracheostomy tube in place|Tracheostomy in place|Gastrostomy tube noted|Lines and tubes unchanged in position].
        """,
        "SD | [Lines and tubes|Support apparatus|Endotracheal tube|Chest tube] in [stable|satisfactory] position.",
    ),
}
