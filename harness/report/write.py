from harness.store import write_text
def write_reports(config, folder, ranking, cells, references, findings):
    write_text(folder.report("html"), "x"); return [folder.report("html")]
