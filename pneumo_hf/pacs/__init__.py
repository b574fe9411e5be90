"""In a PACS: films come in by DICOM, and structured reports go out (the extra `dicom`). Nothing else depends on it."""
