//! An order book around a price. Never crossed: the best bid is below the price, the best ask above it.

use super::{decimal::Decimal, random::SeededRandom};

/// Price and quantity of one level.
pub(super) type BookLevel = [Decimal; 2];

const LEVELS: usize = 10;

/// The direction of prices from the best level on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Bids,
    Asks,
}

/// One side, best level first. Levels are up to `step` ticks apart; bids end before the price reaches zero.
pub(super) fn side(
    side: Side,
    price: Decimal,
    step: i64,
    quantity_places: u32,
    random: &mut SeededRandom,
) -> Vec<BookLevel> {
    let mut units = price.units;
    let mut levels = Vec::with_capacity(LEVELS);
    for depth in 0..LEVELS as i64 {
        let distance = random.between(1, step);
        units += if side == Side::Bids { -distance } else { distance };
        if units < 1 {
            break;
        }
        let one = 10_i64.pow(quantity_places);
        let quantity = random.between(one / 20, one * (2 + depth));
        let quantity = Decimal { units: quantity, places: quantity_places };
        levels.push([Decimal { units, places: price.places }, quantity]);
    }
    levels
}
