//! Loops over the elements of several arrays.

use crate::element::Element;

/// Defines a loop over the elements of a gradient and of arrays of the same length: parameters of a function, unlike
/// entries of an array, are known to be disjoint. Elements in excess of the shortest array are left out.
macro_rules! each {
    ($name:ident($($array:ident),*)) => {
        #[inline(always)]
        pub(super) fn $name<F: Element>(
            gradient: &[F],
            $($array: &mut [F],)*
            update: impl Fn(F, $(each!(@ $array)),*),
        ) {
            let count = gradient.len()$(.min($array.len()))*;
            let gradient = &gradient[..count];
            $(let $array = &mut $array[..count];)*
            for i in 0..count {
                update(gradient[i], $(&mut $array[i]),*);
            }
        }
    };
    (@ $array:ident) => { &mut F };
}

each!(each1(theta));
each!(each2(theta, m));
each!(each3(theta, m, v));
each!(each4(theta, m, v, v_max));
