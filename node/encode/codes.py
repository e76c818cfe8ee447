"""Every code that results use; standard ones come from pydicom's copy of the dictionaries."""

from collections.abc import Mapping

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from node.domain.code import PRIVATE_SCHEME
from node.domain.findings import Outcome, Presence, Priority

DEVICE = codes.DCM.Device
PROCESSING_EQUIPMENT = codes.DCM.ProcessingEquipment
SOURCE_IMAGE = codes.DCM.SourceImageForImageProcessingOperation
ARTIFICIAL_INTELLIGENCE = codes.DCM.ArtificialIntelligence

# Titles and containers
MEASUREMENT_REPORT = codes.DCM.ImagingMeasurementReport
IMAGING_MEASUREMENTS = codes.DCM.ImagingMeasurements
IMAGE_LIBRARY = codes.DCM.ImageLibrary
IMAGE_LIBRARY_GROUP = codes.DCM.ImageLibraryGroup
QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")
IMAGING_REPORT = codes.LN.DiagnosticImagingReport
PROCEDURE_REPORTED = codes.DCM.ProcedureReported
MODALITY = codes.DCM.Modality
FINDINGS = codes.DCM.Findings
FINDING = codes.DCM.Finding
CONCLUSIONS = codes.DCM.Conclusions
CONCLUSION = codes.DCM.Conclusion
COMMENT = codes.DCM.Comment
SOURCE = Code("260753009", "SCT", "Source")
SOURCE_OF_MEASUREMENT = codes.DCM.SourceOfMeasurement
SPECIMEN = codes.DCM.Specimen
MEASUREMENT_GROUP = codes.DCM.MeasurementGroup
KEY_OBJECTS = codes.cid7010.OfInterest
KEY_OBJECT_DESCRIPTION = codes.DCM.KeyObjectDescription

# Procedures (CID 100)
RADIOGRAPHY = codes.LN.XRUnspecifiedBodyRegion
COMPUTED_TOMOGRAPHY = codes.LN.CTUnspecifiedBodyRegion
IMAGING_PROCEDURE = codes.SCT.ImagingProcedure
PROCEDURE_BY_MODALITY: Mapping[str, Code] = {
    "CR": RADIOGRAPHY,
    "DX": RADIOGRAPHY,
    "CT": COMPUTED_TOMOGRAPHY,
}

# Where a finding is, and whether to show it (CID 219, CID 6034)
IMAGE_REGION = codes.DCM.ImageRegion
GEOMETRIC_PURPOSE = codes.DCM.GeometricPurposeOfRegion
BOUNDED_BY = codes.cid219.BoundedBy
RENDERING_INTENT = codes.DCM.RenderingIntent
NOT_FOR_PRESENTATION = codes.cid6034.NotForPresentationRenderingDeviceExpectedNotToPresent
INTENT_BY_PRESENCE: Mapping[Presence, Code] = {
    Presence.PRESENT: codes.cid6034.PresentationRequiredRenderingDeviceIsExpectedToPresent,
    Presence.UNDETERMINED: codes.cid6034.PresentationOptionalRenderingDeviceMayPresent,
    Presence.ABSENT: NOT_FOR_PRESENTATION,
}

# Numbers
PROBABILITY = codes.DCM.Probability
CERTAINTY = codes.DCM.CertaintyOfFinding
MEAN = codes.SCT.Mean
STANDARD_DEVIATION = codes.SCT.StandardDeviation
UPPER_UNCERTAINTY = codes.SCT.RangeOfUpperMeasurementUncertainty
LOWER_UNCERTAINTY = codes.SCT.RangeOfLowerMeasurementUncertainty
PERCENT = codes.UCUM.Percent
NO_UNITS = codes.UCUM.NoUnits
BIT = Code("bit", "UCUM", "bit")

# What a report says of itself
SUMMARY_OF_ANALYSES = codes.DCM.SummaryOfAnalyses
SUMMARY_BY_OUTCOME: Mapping[Outcome, Code] = {
    Outcome.FINDINGS: codes.DCM.AllAlgorithmsSucceededWithFindings,
    Outcome.NO_FINDINGS: codes.DCM.AllAlgorithmsSucceededWithoutFindings,
    Outcome.NOT_ELIGIBLE: codes.DCM.NoAlgorithmsSucceededWithoutFindings,
    Outcome.FAILED: codes.DCM.NoAlgorithmsSucceededWithoutFindings,
}
PRESENCE: Mapping[Presence, Code] = {
    Presence.PRESENT: codes.SCT.Present,
    Presence.ABSENT: codes.SCT.Absent,
    Presence.UNDETERMINED: codes.SCT.Undetermined,
}
YES_NO: Mapping[bool, Code] = {True: codes.SCT.Yes, False: codes.SCT.No}
PRIORITY = Code("260870009", "SCT", "Priority")
PRIORITY_CATEGORY: Mapping[Priority, Code] = {
    Priority.STAT: codes.cid7035.ACRCategory1ActionableFinding,
    Priority.URGENT: codes.cid7035.ACRCategory2ActionableFinding,
    Priority.ROUTINE: codes.cid7035.ACRCategory3ActionableFinding,
}

# What is drawn (CID 7150)
ABNORMAL_STRUCTURE = codes.SCT.MorphologicallyAbnormalStructure

# What no dictionary has
ENTROPY = Code("UQ-ENTROPY", PRIVATE_SCHEME, "Predictive entropy")
MUTUAL_INFORMATION = Code("UQ-MI", PRIVATE_SCHEME, "Epistemic mutual information")
INTERVAL_LEVEL = Code("UQ-ILEVEL", PRIVATE_SCHEME, "Uncertainty interval level")
PREDICTION_SET_MEMBER = Code("UQ-CSET", PRIVATE_SCHEME, "Conformal prediction set member")
CONFORMAL_COVERAGE = Code("UQ-CCOV", PRIVATE_SCHEME, "Conformal target coverage")
OUT_OF_DISTRIBUTION = Code("UQ-OOD", PRIVATE_SCHEME, "Out-of-distribution flag")
OUT_OF_DISTRIBUTION_SCORE = Code("UQ-OODSCORE", PRIVATE_SCHEME, "Out-of-distribution score")
REASON = Code("REJ-REASON", PRIVATE_SCHEME, "Reason for not analysing")
