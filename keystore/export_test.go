package keystore

// What the codes of records and notes authenticate.
var (
	RecordMessage = recordMessage
	NoteMessage   = noteMessage
)
