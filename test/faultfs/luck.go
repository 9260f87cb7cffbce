package faultfs

import "math/rand/v2"

// Luck decides what of the changes that were not flushed the disk has got.
type Luck struct {
	odds   float64 // of one change or piece
	sector int64   // how much of a write is lost or kept as one, in bytes
	random *rand.Rand
}

// Nothing that was not flushed is left.
func Nothing() Luck { return Luck{sector: pageSize} }

// Everything is left, as after the end of a process.
func Everything() Luck { return Luck{odds: 1, sector: pageSize} }

// Some of it is left: the seed decides what, how much, and whether a write can be
// torn at 512 bytes or at a page.
func Some(seed uint64) Luck {
	random := rand.New(rand.NewPCG(seed, seed))
	luck := Luck{odds: []float64{0.1, 0.5, 0.9}[random.IntN(3)], sector: 512, random: random}
	if random.IntN(2) == 0 {
		luck.sector = pageSize
	}
	return luck
}

func (l Luck) keeps() bool {
	switch l.odds {
	case 0:
		return false
	case 1:
		return true
	}
	return l.random.Float64() < l.odds
}
