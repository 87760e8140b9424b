"""Pages: HTML files that hold everything, in one look: report.html of a study, check.html of a dataset."""
