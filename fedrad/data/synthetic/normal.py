"""How a radiologist says that nothing is wrong: anatomy, negations, conclusions, and words that are no finding."""

from __future__ import annotations

HEART = """
Heart size is normal.
The heart is normal in size.
Heart size normal.
Normal heart size.
Heart size within normal limits.
The heart is normal in size and contour.
Cardiac contours are normal.
Heart size is within normal limits for [technique|patient age].
The heart size is normal.
The heart is not enlarged.
Heart is not [significantly|] enlarged.
The cardiac silhouette is not enlarged.
No cardiomegaly.
""".strip().splitlines()

HEART_AND_MEDIASTINUM = """
The heart and mediastinum are [normal|unremarkable|within normal limits].
[The cardiomediastinal silhouette is|Cardiomediastinal silhouette is] [normal|unremarkable|within normal limits|stable].
The cardiomediastinal silhouette is [normal in size and contour|within normal limits for size and contour].
Cardiac and mediastinal contours are [within normal limits|normal|unremarkable].
Heart size and mediastinal [contours|contour] [are|appear] [normal|within normal limits|unremarkable].
Heart and mediastinum [normal|unremarkable|within normal limits].
The heart size and [cardiomediastinal silhouette|mediastinal contours] are [normal|within normal limits|stable].
[Normal|Stable|Unremarkable] [cardiomediastinal contours|cardiomediastinal silhouette|cardiomediastinal silhouette].
Normal heart size and mediastinal contours.
Stable cardiomediastinal silhouette with normal heart size.
The heart is normal in size. The mediastinum is [unremarkable|within normal limits|stable].
Heart size within normal limits, stable mediastinal contours.
The hilar and mediastinal contours are normal. Heart size is normal.
Cardio mediastinal silhouette is unremarkable.
The cardiomediastinal silhouette is not enlarged.
The heart is normal in size. No mediastinal widening.
The heart is not enlarged and the mediastinum is not widened.
Cardiac silhouette and mediastinal contours are within normal limits.
""".strip().splitlines()

HEART_AND_VESSELS = """
Heart size and pulmonary vascularity [appear|are] within normal limits.
Heart size and vascularity normal.
Cardiac silhouette and pulmonary vascularity are normal.
The heart, pulmonary vessels and mediastinum are within normal limits.
The cardiomediastinal silhouette and pulmonary vasculature are [within normal limits|normal in size|normal].
Heart size, mediastinal contour, and pulmonary vascularity are within normal limits.
Normal heart size, mediastinal contours and pulmonary vasculature.
Heart and pulmonary vessels are [normal|unremarkable].
""".strip().splitlines()

MEDIASTINUM = """
Mediastinal contours are [normal|within normal limits|stable|unchanged].
The mediastinum is [unremarkable|stable|normal].
Stable mediastinal contours.
Mediastinal contour is unremarkable.
Hilar and mediastinal contours are unremarkable.
The trachea is midline.
""".strip().splitlines()

VESSELS = """
Pulmonary vascularity is [normal|within normal limits].
Pulmonary vasculature is [normal|unremarkable|within normal limits].
[Normal pulmonary vascularity|Normal pulmonary vasculature].
No typical findings of pulmonary edema.
The pulmonary vessels are normal.
No [pulmonary|] vascular congestion.
[No overt edema|No evidence of pulmonary edema|No overt failure].
Normal caliber pulmonary vasculature without edema.
""".strip().splitlines()

LUNGS = """
The lungs are clear.
Lungs are clear.
Lungs clear.
The lungs are clear bilaterally.
Both lungs are clear and expanded.
Clear lungs.
[Well-expanded and clear lungs|Lungs are well expanded and clear|Lungs are well-aerated and clear].
Lungs are grossly clear.
The lungs are clear without [<negative>|evidence of <negative>].
Lungs are clear without <negative>, <negative>, or <negative>.
The lungs are clear of <negative>, <negative>, or <negative>.
The lungs are free of [focal airspace disease|any focal infiltrates|acute infiltrate].
The lungs are clear, without evidence of infiltrate.
The lungs are normally inflated without evidence of <negative>, <negative>, or <negative>.
The lungs and pleural spaces show no acute abnormality.
""".strip().splitlines()

LUNGS_OTHERWISE = """
The lungs are otherwise clear.
The remainder of the lungs [are|appear] clear.
Lungs otherwise clear.
Otherwise, no focal <lung_negative>.
The <other> lung is clear.
No other focal <lung_negative>.
""".strip().splitlines()

NEGATIONS = """
No <negative>, <negative>, or <negative>.
No <negative>, <negative> or <negative> [is seen|is identified|identified|seen|].
No <negative> or <negative>.
There is no <negative> or <negative>.
There is no <negative>. There is no <negative>.
There is no <negative>, <negative>, or <negative>.
No <negative>. No <negative>. No <negative>.
No <negative>. No <negative>.
No <negative> or <negative> is [seen|identified].
Negative for <negative>, <negative>, or <negative>.
No evidence of <negative> or <negative>.
No evidence of <negative>. No <negative>.
There is no evidence of <negative> or <negative>.
Specifically, no evidence of <negative>, <negative>, or <negative>.
No visible <negative>. No visible <negative>.
No <negative>, no definite <negative> seen.
There are no signs of <negative>.
""".strip().splitlines()

# Which labels a negated noun speaks about: a report that asserts one of them never negates the noun.
NEGATIVES: dict[str, tuple[str, ...]] = {
    "focal consolidation": ("Consolidation", "Pneumonia"),
    "focal airspace consolidation": ("Consolidation", "Pneumonia"),
    "focal airspace disease": ("Lung Opacity", "Pneumonia"),
    "focal infiltrate": ("Lung Opacity", "Pneumonia"),
    "infiltrate": ("Lung Opacity", "Pneumonia"),
    "focal alveolar consolidation": ("Consolidation", "Pneumonia"),
    "focal airspace opacity": ("Lung Opacity", "Pneumonia"),
    "suspicious pulmonary opacity": ("Lung Opacity", "Pneumonia"),
    "pneumonia": ("Lung Opacity", "Pneumonia"),
    "pleural effusion": ("Pleural Effusion",),
    "effusion": ("Pleural Effusion",),
    "large pleural effusion": ("Pleural Effusion",),
    "definite pleural effusion": ("Pleural Effusion",),
    "pneumothorax": ("Pneumothorax",),
    "pneumothoraces": ("Pneumothorax",),
    "pulmonary edema": ("Edema",),
    "edema": ("Edema",),
    "nodules or masses": ("Lung Lesion",),
    "suspicious nodule": ("Lung Lesion",),
    "adenopathy": ("Lung Lesion", "Enlarged Cardiomediastinum"),
}
# How often each is reached for: the trio of consolidation, effusion and pneumothorax is nearly universal.
NEGATIVE_WEIGHTS = (14, 4, 6, 4, 4, 2, 4, 2, 1, 20, 8, 6, 2, 26, 2, 3, 2, 1, 1, 1)
LUNG_NEGATIVES = ("consolidation", "airspace disease", "infiltrate", "abnormality")

BONES = """
No acute [bony|osseous] [abnormality|abnormalities|findings].
[The osseous structures are|Osseous structures are|Bony structures are] [intact|unremarkable|within normal limits].
The [bones|skeletal structures] are [unremarkable|intact|normal].
Visualized osseous structures [are intact|appear intact|are unremarkable|are without acute abnormality].
The visualized osseous structures of the thorax are without acute abnormality.
Bony thorax and soft tissues unremarkable.
Soft tissues and osseous structures are unremarkable.
No displaced rib fractures.
No [visualized|definite|acute|displaced] [rib|] [fracture|fractures].
No [compression fracture|acute fracture or dislocation|destructive bony lesion].
The bones and soft tissues are normal.
""".strip().splitlines()

ABDOMEN = """
No free air under the diaphragm.
The visualized upper abdomen is unremarkable.
Pleural spaces are clear.
No free subdiaphragmatic air.
The aorta is normal in caliber.
The costophrenic angles are sharp.
No pleural thickening.
No atelectasis.
Central airways are patent.
""".strip().splitlines()

CONCLUSIONS = """
No acute cardiopulmonary [abnormality|disease|process|findings|abnormalities|finding].
No acute cardiopulmonary [abnormality|disease|process|findings].
No acute disease.
No active disease.
No evidence of active disease.
No acute [findings|abnormality|process|pulmonary disease|pulmonary findings].
Negative for acute [cardiopulmonary|] abnormality.
No radiographic evidence of acute cardiopulmonary [disease|process|abnormality].
No acute radiographic cardiopulmonary process.
No acute cardiopulmonary abnormality identified.
No acute intrathoracic [process|abnormality].
No acute or active cardiac, pulmonary or pleural disease.
""".strip().splitlines()

# Only for a report without any abnormality.
NORMAL_CONCLUSIONS = """
Normal chest.
Clear lungs.
Negative chest.
Negative chest x-ray.
Normal chest radiograph.
Stable chest.
No evidence of active tuberculosis.
No acute preoperative findings.
Unremarkable examination of the chest.
""".strip().splitlines()

WHOLE_NORMAL = """
Heart size is normal and the lungs are clear.
Heart size normal and lungs are clear. No edema or effusion.
Heart size normal. Lungs are clear. No pneumonia, effusions, edema, pneumothorax, adenopathy, nodules or masses.
Cardiac and mediastinal contours are within normal limits. The lungs are clear. Bony structures are intact.
Lungs are clear. Heart size normal. The bones are unremarkable.
Heart, lungs, mediastinum and bones are unremarkable.
Both lungs clear and expanded. Heart and mediastinum normal.
""".strip().splitlines()

TECHNIQUE = """
[PA and lateral|Frontal and lateral|AP and lateral|Two] views of the chest [were obtained|were reviewed|are provided].
[Portable|Single portable|AP portable] [view|radiograph] of the chest.
Comparison is made to [the prior study|<date>|prior exam of <date>].
Comparison <date>.
No prior [studies|films|examinations] for comparison.
""".strip().splitlines()

# A disease in the question is not a finding in the answer.
# Films of something else, read in one report with the chest.
ELSEWHERE = """
[Left|Right] [ankle|foot|knee|wrist|hand|hip|elbow]. [Soft tissue swelling.|] No [acute|] fracture or dislocation.
[Left|Right] shoulder. Negative for fracture or dislocation.
[Lumbar|Cervical|Lumbosacral] spine. Disc spaces and alignment are [normal|maintained].
Rib films. No fractures.
Abdomen. Nonobstructive bowel gas pattern. No dilated loops.
[Left|Right] [hip|knee|foot]. Degenerative changes. No fracture seen.
Soft tissue neck. The airway is patent.
""".strip().splitlines()

INDICATION = """
<age>-year-old [male|female|man|woman|patient] with [<symptom>|<symptom> and <symptom>].
<age>-year-old with history of <disease>, [<symptom>|now <symptom>].
[Evaluate for|Rule out|Question|Assess for] <disease>.
<Symptom>.
<Symptom>, [rule out|evaluate for|concern for] <disease>.
[Preoperative evaluation|Positive PPD|Status post fall|Followup <disease>|History of <disease>].
""".strip().splitlines()

COMMENTS = """
Clinical correlation is recommended.
Recommend correlation with clinical history to exclude <disease>.
Findings discussed with Dr. <deid> [at <deid>|by telephone].
If there is persistent concern for <disease>, consider CT.
Please see separately dictated report.
The results were entered in the [critical results|communication] system.
""".strip().splitlines()

RESOLVED = """
[There has been interval resolution of|Interval resolution of|Interval clearing of] <thing>.
[Previously seen <thing> has resolved|Previously described <thing> is no longer seen].
No residual [evidence of|] <thing>.
In the interval, <thing> has cleared.
<Thing> seen previously is not identified on [today's|the current] study.
""".strip().splitlines()

LEXICON: dict[str, str] = {
    "symptom": "[chest pain|shortness of breath|cough|fever|dyspnea|hypoxia|wheezing|weakness|back pain|trauma]",
    "disease": "[pneumonia|congestive heart failure|pneumothorax|pleural effusion|lung cancer|rib fracture|edema|COPD"
    "|lung nodule|cardiomegaly|tuberculosis|atelectasis|infection|aspiration]",
    "age": "[<deid>|<deid>|34|47|52|58|63|66|71|78|84]",
    "lung_negative": "[consolidation|airspace disease|infiltrate|abnormality|opacity]",
}
