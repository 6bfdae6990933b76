//! Loops over the elements of several arrays.

use crate::element::Element;

/// Defines a loop over the elements of a gradient and of arrays of the same length, sixteen at a time: parameters of
/// a function, unlike entries of an array, are known to be disjoint, and a fixed count leaves no remainder for
/// a slower loop. Elements in excess of the shortest array are left out.
macro_rules! each {
    ($name:ident($($array:ident),*)) => {
        #[inline(always)]
        pub(super) fn $name<F: Element>(
            gradient: &[F],
            $($array: &mut [F],)*
            update: impl Fn(F, $(each!(@ $array)),*),
        ) {
            let (gradient, rest) = gradient.as_chunks::<16>();
            $(let $array = $array.as_chunks_mut::<16>();)*
            let count = gradient.len()$(.min($array.0.len()))*;
            for n in 0..count {
                let gradient = &gradient[n];
                $(let $array = &mut $array.0[n];)*
                for i in 0..16 {
                    update(gradient[i], $(&mut $array[i]),*);
                }
            }
            let count = rest.len()$(.min($array.1.len()))*;
            for i in 0..count {
                update(rest[i], $(&mut $array.1[i]),*);
            }
        }
    };
    (@ $array:ident) => { &mut F };
}

each!(each1(theta));
each!(each2(theta, m));
each!(each3(theta, m, v));
each!(each4(theta, m, v, v_max));
