//! `codes!`: an enum whose variants have one text each, which the catalog, the API and the command line share.

/// Makes an enum with `ALL`, `code`, `Display`, `FromStr` and serde by its codes; unknown text is refused.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident ($what:literal) { $($(#[$variant_doc:meta])* $variant:ident => $code:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "&'static str")]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// Every one, in order.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// The text that stands for it in the catalog and in the API; it never changes.
            #[must_use]
            pub fn code(self) -> &'static str {
                match self { $($name::$variant => $code,)* }
            }
        }

        impl std::str::FromStr for $name {
            type Err = crate::error::Error;
            fn from_str(text: &str) -> crate::error::Result<Self> {
                match text {
                    $($code => Ok($name::$variant),)*
                    _ => Err(crate::error::Error::new(
                        crate::error::ErrorKind::InvalidInput,
                        concat!("read a ", $what),
                        concat!("it is none of: ", $($code, " "),*).trim_end(),
                    )
                    .with("value", text.chars().take(64).flat_map(char::escape_default).collect::<String>())),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = crate::error::Error;
            fn try_from(text: String) -> crate::error::Result<Self> {
                text.parse()
            }
        }

        impl From<$name> for &'static str {
            fn from(value: $name) -> &'static str {
                value.code()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.code())
            }
        }
    )*};
}
