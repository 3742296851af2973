"""Sends the history of students' answers to a database of its own."""


class StudentModuleHistoryExtendedRouter:
    DATABASE = "student_module_history"
    APP = "coursewarehistoryextended"

    def db_for_read(self, model, **_):
        return self.DATABASE if model._meta.app_label == self.APP else None

    db_for_write = db_for_read
