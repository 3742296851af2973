"""The part of the platform that visitors see: accounts, courses, enrolment."""
