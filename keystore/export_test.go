package keystore

// Waiting returns how many callers wait for their turn to generate a key.
func (k *Keystore) Waiting() int { return int(k.gate.waiting.Load()) }
