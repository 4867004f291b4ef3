// Written by `cargo test -p impasto-studio` from the Rust types: do not edit.

/**
 * A file by name and hash.
 */
export type FileRef = { 
/**
 * File name without extension, a short name, or a path; without a folder once it is resolved.
 */
name: string, 
/**
 * SHA-256 of the file in hex, or its first ten digits at least. For a folder see
 * [`hash`](crate::hash).
 */
sha256?: string, 
/**
 * SHA-256 of what follows a safetensors file's header, or its first twelve digits at least: by
 * this A1111 knows adapters, as it survives a change of metadata.
 */
data_sha256?: string, };

/**
 * One adapter of the stack.
 */
export type AdapterParams = { 
/**
 * How much of it acts on the UNet.
 */
unet_weight: number, 
/**
 * How much of it acts on the text encoder; of SDXL's two, on the first.
 */
text_encoder_weight: number, 
/**
 * How much of it acts on SDXL's second text encoder, where that is not the same.
 */
text_encoder_2_weight?: number, 
/**
 * What its weights are multiplied by in single blocks: text encoders, IN00 to IN11, the middle,
 * OUT00 to OUT11.
 */
blocks?: Array<number>, 
/**
 * What the UNet's weight is multiplied by over the steps.
 */
over_steps?: Array<KeyframeParams>, 
/**
 * How many ranks of it are used; all without it.
 */
rank_limit?: number, 
/**
 * An adapter that is switched off keeps its place and its weights, and does nothing.
 */
enabled: boolean, 
/**
 * File name without extension, a short name, or a path; without a folder once it is resolved.
 */
name: string, 
/**
 * SHA-256 of the file in hex, or its first ten digits at least. For a folder see
 * [`hash`](crate::hash).
 */
sha256?: string, 
/**
 * SHA-256 of what follows a safetensors file's header, or its first twelve digits at least: by
 * this A1111 knows adapters, as it survives a change of metadata.
 */
data_sha256?: string, };

/**
 * What an adapter's weight is multiplied by at one place among the steps.
 */
export type KeyframeParams = { 
/**
 * 0 is the first step, 1 the last.
 */
at: number, 
/**
 * Of the weight.
 */
factor: number, 
/**
 * To the next keyframe.
 */
fade: FadeName, };

/**
 * How a weight goes from one keyframe to the next.
 */
export type FadeName = "hold" | "linear" | "cosine";

/**
 * The picture to start from.
 */
export type InitParams = { 
/**
 * The picture; a recipe of another program knows that there was one, but not which.
 */
image: FileRef | null, 
/**
 * The part of the schedule that is run, `0..=1`.
 */
denoising_strength: number, 
/**
 * How a picture of another shape is brought to this one's.
 */
fit: InitFit, 
/**
 * Another picture that says where it is repainted: where it is white.
 */
mask: FileRef | null, };

/**
 * How a first picture of another shape is brought to the picture's.
 */
export type InitFit = "crop" | "fit";

/**
 * First noise from a file.
 */
export type NoiseParams = { 
/**
 * Which of the `n`.
 */
index: number, 
/**
 * File name without extension, a short name, or a path; without a folder once it is resolved.
 */
name: string, 
/**
 * SHA-256 of the file in hex, or its first ten digits at least. For a folder see
 * [`hash`](crate::hash).
 */
sha256?: string, 
/**
 * SHA-256 of what follows a safetensors file's header, or its first twelve digits at least: by
 * this A1111 knows adapters, as it survives a change of metadata.
 */
data_sha256?: string, };

/**
 * A base model that takes over in the midst of sampling.
 */
export type RefinerParams = { 
/**
 * The part of the steps that come before it, `0..=1`.
 */
switch_at: number, 
/**
 * File name without extension, a short name, or a path; without a folder once it is resolved.
 */
name: string, 
/**
 * SHA-256 of the file in hex, or its first ten digits at least. For a folder see
 * [`hash`](crate::hash).
 */
sha256?: string, 
/**
 * SHA-256 of what follows a safetensors file's header, or its first twelve digits at least: by
 * this A1111 knows adapters, as it survives a change of metadata.
 */
data_sha256?: string, };

/**
 * What SDXL is told of sizes, and its refiner of beauty.
 */
export type SizeParams = { 
/**
 * Width and height before the training picture was scaled; `null`: the picture's.
 */
original: [number, number] | null, 
/**
 * Pixels cut off at the left and at the top.
 */
crop: [number, number], 
/**
 * Width and height that it was scaled to; `null`: the picture's.
 */
target: [number, number] | null, 
/**
 * The refiner's score for the prompt, 1 to 10.
 */
aesthetic_score: number, 
/**
 * The refiner's score for the negative prompt.
 */
negative_aesthetic_score: number, };

/**
 * What a UNet outputs, in diffusers' words.
 */
export type Prediction = "epsilon" | "v_prediction";

export type Rng = "torch-cpu" | "nv";

export type Precision = "f32" | "bf16" | "f16";

/**
 * All that a person chose for a picture.
 */
export type GenerationParams = { 
/**
 * [`VERSION`].
 */
version: number, 
/**
 * The base model.
 */
model: FileRef, 
/**
 * A VAE instead of the base model's own.
 */
vae: FileRef | null, 
/**
 * What the base model's UNet predicts, where its file does not say it or says it wrongly.
 */
prediction: Prediction | null, 
/**
 * The stack.
 */
adapters: Array<AdapterParams>, 
/**
 * Embeddings that the prompts call by their names; [`resolve`](crate::resolve) finds them.
 */
embeddings: Array<FileRef>, 
/**
 * May contain adapter tags, which [`resolve`](crate::resolve) moves into the stack.
 */
prompt: string, 
/**
 * What to avoid.
 */
negative_prompt: string, 
/**
 * Pixels, a multiple of 8.
 */
width: number, 
/**
 * Pixels, a multiple of 8.
 */
height: number, 
/**
 * Steps of the full schedule; with a first picture, the end of it is run.
 */
steps: number, 
/**
 * Classifier-free guidance; 1 turns it off.
 */
guidance_scale: number, 
/**
 * Id of a sampler.
 */
sampler: string, 
/**
 * Id of a schedule.
 */
schedule: string, 
/**
 * Up to 2^53 - 1; `None` asks for a random one.
 */
seed: number | null, 
/**
 * Whose random numbers.
 */
rng: Rng, 
/**
 * 1 is the text encoder's last layer; of SDXL the last but one.
 */
clip_skip: number, 
/**
 * What SDXL is told of sizes, where that is not the picture's own size.
 */
sizes: SizeParams | null, 
/**
 * Another base model for the last steps.
 */
refiner: RefinerParams | null, 
/**
 * How weights and activations are stored.
 */
precision: Precision, 
/**
 * Start from a picture.
 */
init: InitParams | null, 
/**
 * First noise from a file instead of from the seed.
 */
noise: NoiseParams | null, };

/**
 * What a window can do about a failure, beyond showing it.
 */
export type Code = "cancelled" | "missing_file" | "wrong_base_model" | "invalid_params" | "out_of_memory" | "no_trash" | "unknown";

/**
 * A failure as a window shows it.
 */
export type Failure = { 
/**
 * The kind of failure: `missing_file`, `invalid_params`, ….
 */
code: Code, 
/**
 * The parameter that has to be corrected.
 */
field: string | null, 
/**
 * What happened: a whole sentence.
 */
message: string, 
/**
 * What to try: a whole sentence.
 */
hint: string | null, };

/**
 * Where a job is on its way.
 */
export type JobState = "queued" | "running" | "done" | "failed" | "cancelled" | "interrupted";

/**
 * One picture that is wanted.
 */
export type Job = { 
/**
 * Counts up, never used again.
 */
id: number, 
/**
 * Where it is on its way.
 */
state: JobState, 
/**
 * What is wanted, with a seed.
 */
params: GenerationParams, 
/**
 * The picture that it made.
 */
image: number | null, 
/**
 * Why it failed.
 */
error: Failure | null, 
/**
 * Milliseconds since 1970.
 */
created_at: number, 
/**
 * The sheet that it is a cell of.
 */
sheet: number | null, };

/**
 * What the engine is doing.
 */
export type Phase = "load" | "patch" | "encode" | "sample" | "decode";

/**
 * How far a running job is.
 */
export type JobProgress = { 
/**
 * Its id.
 */
job: number, 
/**
 * What the engine is doing.
 */
phase: Phase, 
/**
 * Units of work done in this phase.
 */
done: number, 
/**
 * Units of work in this phase.
 */
total: number, 
/**
 * Sampler steps begun; 0 outside [`Phase::Sample`].
 */
step: number, 
/**
 * Sampler steps in all.
 */
steps: number, 
/**
 * Revision of `preview/JOB`, once there is one.
 */
preview: number | null, 
/**
 * Until the picture is there, once that can be told.
 */
seconds_left: number | null, };

/**
 * Which weights of an adapter an axis changes.
 */
export type WeightPart = "both" | "unet" | "text_encoder";

/**
 * What changes along an axis.
 */
export type AxisTarget = { "kind": "weight", 
/**
 * The adapter.
 */
file: FileRef, 
/**
 * Which of its weights.
 */
part: WeightPart, } | { "kind": "steps" } | { "kind": "guidance" } | { "kind": "seed" } | { "kind": "sampler" } | { "kind": "schedule" } | { "kind": "clip_skip" } | { "kind": "denoising" } | { "kind": "model" } | { "kind": "words" };

/**
 * An axis as a person asks for it.
 */
export type AxisWish = { 
/**
 * What changes.
 */
target: AxisTarget, 
/**
 * What the person calls an adapter; `null`: what the library calls it.
 */
title: string | null, 
/**
 * Values between commas, with ranges: `0-1 (+0.25)`, `0-1 [5]`, `1-5`.
 */
values: string, };

/**
 * What must be made anew where a value changes, from the cheapest on.
 */
export type Reach = "sampling" | "unet" | "conditioning" | "model";

/**
 * What is put in at a place.
 */
export type Entry = number | string;

/**
 * A place on an axis.
 */
export type AxisValue = { 
/**
 * For a person.
 */
label: string, 
/**
 * What is put in.
 */
value: Entry, };

/**
 * An axis as it is drawn.
 */
export type Axis = { 
/**
 * What changes.
 */
target: AxisTarget, 
/**
 * What it is called.
 */
title: string, 
/**
 * What must be made anew from one value to the next.
 */
reach: Reach, 
/**
 * From left to right, or from the bottom to the top.
 */
values: Array<AxisValue>, };

/**
 * A cell of a sheet.
 */
export type SheetCell = { 
/**
 * Id of the job that makes it or made it; the job may have left the list.
 */
job: number, 
/**
 * Where it is on its way.
 */
state: JobState, 
/**
 * Its picture; `null`: there is none, or it was deleted.
 */
image: number | null, };

/**
 * A sheet with its cells.
 */
export type Sheet = { 
/**
 * Counts up, never used again.
 */
id: number, 
/**
 * What it is called.
 */
title: string, 
/**
 * The recipe of which all cells are made.
 */
params: GenerationParams, 
/**
 * From left to right.
 */
x: Axis, 
/**
 * From the bottom to the top.
 */
y: Axis | null, 
/**
 * From the left, then from the bottom.
 */
cells: Array<SheetCell>, 
/**
 * Milliseconds since 1970.
 */
created_at: number, };

/**
 * A sheet in a list.
 */
export type SheetEntry = { 
/**
 * See [`Sheet::id`].
 */
id: number, 
/**
 * What it is called.
 */
title: string, 
/**
 * Cells from left to right.
 */
columns: number, 
/**
 * Cells from the bottom to the top.
 */
rows: number, 
/**
 * Milliseconds since 1970.
 */
created_at: number, };

/**
 * What a sheet would be.
 */
export type SheetPlan = { 
/**
 * What it would be called.
 */
title: string, 
/**
 * Labels from left to right.
 */
columns: Array<string>, 
/**
 * Labels from the bottom to the top; one empty label without a second axis.
 */
rows: Array<string>, 
/**
 * How many pictures.
 */
pictures: number, 
/**
 * About how long it takes; `null` where nothing alike was made before.
 */
seconds: number | null, 
/**
 * Whether the prompts are encoded once for all of it.
 */
shared: boolean, };

/**
 * One picture with all that is known of it.
 */
export type GalleryImage = { 
/**
 * Counts up, never used again.
 */
id: number, 
/**
 * File name.
 */
name: string, 
/**
 * Folder and file name.
 */
path: string, 
/**
 * Pixels.
 */
width: number, 
/**
 * Pixels.
 */
height: number, 
/**
 * Marked by the person.
 */
favourite: boolean, 
/**
 * Milliseconds since 1970.
 */
created_at: number, 
/**
 * How long it took to make, where that is known.
 */
seconds: number | null, 
/**
 * What it was made on.
 */
device: string | null, 
/**
 * `null`: the file has no recipe that is understood.
 */
params: GenerationParams | null, 
/**
 * What each adapter that was switched on did.
 */
patches: Array<AdapterPatch>, 
/**
 * What the person should know of how it was made: whole sentences.
 */
warnings: Array<string>, };

/**
 * What an adapter did.
 */
export type AdapterPatch = { 
/**
 * Its name in the recipe.
 */
name: string, 
/**
 * Modules that it changed.
 */
applied: number, 
/**
 * How many of them beside the layer, as a weight changes over the steps.
 */
beside: number, 
/**
 * Modules that it has.
 */
total: number, 
/**
 * Modules without effect, with the reason: at most 100 of them.
 */
left_out: Array<Problem>, };

/**
 * A module without effect.
 */
export type Problem = { 
/**
 * The module, as the file calls it.
 */
name: string, 
/**
 * Why.
 */
reason: string, };

/**
 * Which pictures are wanted.
 */
export type GalleryQuery = { 
/**
 * Words that prompt, adapters, ground or seed must contain; empty for all.
 */
search: string, 
/**
 * Only those that were marked.
 */
favourites: boolean, 
/**
 * Only those made since then, in milliseconds since 1970.
 */
since: number | null, 
/**
 * Name of a base model.
 */
ground: string | null, 
/**
 * Name of an adapter.
 */
adapter: string | null, 
/**
 * Otherwise the newest come first.
 */
oldest_first: boolean, };

/**
 * How many pictures there are of what.
 */
export type GalleryCounts = { 
/**
 * All.
 */
all: number, 
/**
 * Those that were marked.
 */
favourites: number, 
/**
 * By base model, the most used first.
 */
grounds: Array<NameCount>, 
/**
 * By adapter, the most used first.
 */
adapters: Array<NameCount>, };

/**
 * A name with the number of its pictures.
 */
export type NameCount = { 
/**
 * Of a base model or adapter.
 */
name: string, 
/**
 * Of pictures.
 */
count: number, };

/**
 * What became of pictures that were to be deleted.
 */
export type Deleted = { 
/**
 * For undoing it; `null` where they cannot come back.
 */
undo: number | null, 
/**
 * How many are gone.
 */
count: number, };

/**
 * What a model file is good for.
 */
export type ModelKind = "checkpoint" | "adapter" | "vae" | "embedding" | "other";

/**
 * One model file, as the library shows it.
 */
export type ModelCard = { 
/**
 * Stable as long as the file keeps its place.
 */
id: number, 
/**
 * What it is.
 */
kind: ModelKind, 
/**
 * What recipes call it.
 */
name: string, 
/**
 * For a person: the note's, the sidecar's, the starter's, else the name.
 */
title: string, 
/**
 * Where it is.
 */
path: string, 
/**
 * Index into [`Library::folders`]; `null`: used where it lies.
 */
folder: number | null, 
/**
 * "SD 1.x", "SDXL"; `null`: not known.
 */
family: string | null, 
/**
 * One line about it: "LoCon · rank 8", "v-prediction · 27 MB".
 */
summary: string, 
/**
 * How its numbers are stored: "f16", "bf16", "f8", "PyTorch file · f32"; `null`: not known.
 */
precision: string | null, 
/**
 * "LoRA", "LoCon", "LoHa"; adapters only.
 */
algorithm: string | null, 
/**
 * Smallest and largest.
 */
rank: [number, number] | null, 
/**
 * Modules that it changes.
 */
modules: number, 
/**
 * Size on disk.
 */
bytes: number, 
/**
 * Milliseconds since 1970.
 */
modified_at: number, 
/**
 * Whether this program can run it.
 */
usable: boolean, 
/**
 * Why it is not usable, or what is odd about it: whole sentences.
 */
notes: Array<string>, 
/**
 * Words that bring it out.
 */
trigger_words: Array<string>, 
/**
 * Weight that it is put on the stack with.
 */
default_weight: number, 
/**
 * Revision of `cover/ID`; `null`: there is none.
 */
cover: number | null, 
/**
 * 0 to 11.
 */
pigment: number, 
/**
 * Once it is known.
 */
sha256: string | null, 
/**
 * Id of another card with the same contents.
 */
duplicate_of: number | null, 
/**
 * Comes with the program.
 */
starter: boolean, 
/**
 * What suits it, for checkpoints that are usable.
 */
defaults: GenerationParams | null, 
/**
 * The few steps that it wants, by its name.
 */
acceleration: Suggestion | null, 
/**
 * Trainer, date, base model, license, …: label and value.
 */
facts: Array<[string, string]>, 
/**
 * When it was last used, in milliseconds since 1970.
 */
used_at: number | null, 
/**
 * What the person said of it, as it is kept.
 */
note: ModelNote, };

/**
 * The numbers that a distilled model or adapter wants, by its name.
 */
export type Suggestion = { 
/**
 * The method: "Lightning".
 */
name: string, 
/**
 * Steps.
 */
steps: number, 
/**
 * Classifier-free guidance.
 */
guidance_scale: number, 
/**
 * Id of a sampler.
 */
sampler: string, 
/**
 * Id of a schedule.
 */
schedule: string, };

/**
 * Everything that was found.
 */
export type Library = { 
/**
 * Counts up with every change.
 */
revision: number, 
/**
 * The starter first, then by folder and name.
 */
cards: Array<ModelCard>, 
/**
 * Where was looked: ours first.
 */
folders: Array<LibraryFolder>, 
/**
 * Folders of other programs that could be added; each until the person answers.
 */
offers: Array<FolderOffer>, 
/**
 * Not everything has been seen yet.
 */
scanning: boolean, };

/**
 * A folder with models.
 */
export type LibraryFolder = { 
/**
 * For a person.
 */
name: string, 
/**
 * Where it is.
 */
path: string, 
/**
 * Ours: dropped adapters go there.
 */
own: boolean, 
/**
 * Whose it is, if it is another program's: "ComfyUI".
 */
program: string | null, 
/**
 * Why it cannot be read, or a part of it: whole sentences.
 */
problem: string | null, };

/**
 * A folder of another program that was found in its usual place.
 */
export type FolderOffer = { 
/**
 * Whose it is: "ComfyUI".
 */
program: string, 
/**
 * Where it is.
 */
path: string, 
/**
 * Models in it that this program knows.
 */
models: number, };

/**
 * What an adapter would do on a base model.
 */
export type Fit = { 
/**
 * Id of the adapter's card.
 */
adapter: number, 
/**
 * Modules that it changes there.
 */
applied: number, 
/**
 * Modules that it has.
 */
total: number, 
/**
 * What has no effect, and why.
 */
left_out: Array<Problem>, 
/**
 * Where in the base model these are, block by block; blocks that it lacks are left out.
 */
coverage: Array<BlockCoverage>, 
/**
 * Why it stays out of the picture: a whole sentence.
 */
refusal: string | null, };

/**
 * How much of a block an adapter changes.
 */
export type BlockCoverage = { 
/**
 * "TE", "IN04", "MID", "OUT11", "other", "TE2".
 */
block: string, 
/**
 * Its place in lists of 28 numbers; the first 26 are those of weights of blocks.
 */
index: number, 
/**
 * Modules that are changed.
 */
changed: number, 
/**
 * Modules that the base model has there.
 */
of: number, };

/**
 * How much adapters change a base model, each by itself and together.
 */
export type StackStrength = { 
/**
 * In the order in which they were asked for.
 */
adapters: Array<AdapterStrength>, 
/**
 * `⟨Δᵢ, Δⱼ⟩` of the changes at weight 1, for each pair the 28 blocks; symmetric.
 */
products: Array<Array<Array<number>>>, };

/**
 * How much one adapter changes a base model.
 */
export type AdapterStrength = { 
/**
 * Id of its card.
 */
adapter: number, 
/**
 * The norm of its change at weight 1, relative to what it changes; `null` if it changes nothing.
 */
relative: number | null, 
/**
 * Modules whose change is exactly zero.
 */
without_effect: number, 
/**
 * What in it cannot be used, as numbers that are none: a whole sentence.
 */
problem: string | null, };

/**
 * What the person says of a model file; it wins over what the file says. `null`: nothing said.
 */
export type ModelNote = { 
/**
 * Its name for a person.
 */
title: string | null, 
/**
 * Words that bring it out.
 */
trigger_words: Array<string> | null, 
/**
 * Weight that it is put on the stack with.
 */
default_weight: number | null, 
/**
 * 0 to 11.
 */
pigment: number | null, 
/**
 * What a base model predicts, where its file says it wrongly.
 */
prediction: Prediction | null, 
/**
 * Id of the method by which it was made to need few steps, or "none", where its name says it wrongly.
 */
acceleration: string | null, };

/**
 * How a model is to be written anew.
 */
export type ConvertWish = { 
/**
 * `null`: each number keeps its bits.
 */
precision: StoredName | null, 
/**
 * As a diffusers folder instead of one file.
 */
folder: boolean, 
/**
 * Without extension; `null`: one that fits.
 */
name: string | null, 
/**
 * A stack that is written into it.
 */
adapters: Array<AdapterParams>, };

/**
 * How numbers are stored.
 */
export type StoredName = "f32" | "f16" | "bf16";

/**
 * What writing a model anew would give.
 */
export type ConvertPlan = { 
/**
 * The new model's, without extension.
 */
name: string, 
/**
 * The folder that it goes to.
 */
place: string, 
/**
 * What it takes.
 */
bytes: number, 
/**
 * What is free there, where the system tells.
 */
free: number | null, 
/**
 * Whether the model is a folder now.
 */
from_folder: boolean, 
/**
 * Why it cannot be done so: the name is taken, or there is no room.
 */
problem: Failure | null, };

/**
 * What a file is that hovers over the window, and what dropping it would do.
 */
export type DropItem = { 
/**
 * Where it is.
 */
path: string, 
/**
 * File name.
 */
name: string, 
/**
 * What it is.
 */
kind: DropKind, 
/**
 * "LoRA · SD 1.x · rank 32 · 264 of 264 modules match · trigger “inkwash”".
 */
what: string, 
/**
 * "onto the stack", "offered as ground", "offer its recipe", "left alone".
 */
fate: string, 
/**
 * Whether it can be used.
 */
usable: boolean, };

/**
 * What can be dropped.
 */
export type DropKind = "adapter" | "checkpoint" | "vae" | "embedding" | "picture" | "other";

/**
 * What became of a dropped file.
 */
export type Dropped = { "kind": "adapter", 
/**
 * Its card.
 */
card: number, 
/**
 * Whether this program can run it.
 */
usable: boolean, 
/**
 * What is odd about it: a whole sentence.
 */
note: string | null, } | { "kind": "checkpoint", 
/**
 * Its card.
 */
card: number, 
/**
 * Whether this program can run it.
 */
usable: boolean, 
/**
 * What is odd about it: a whole sentence.
 */
note: string | null, } | { "kind": "vae", 
/**
 * Its card.
 */
card: number, } | { "kind": "embedding", 
/**
 * Its card.
 */
card: number, } | { "kind": "picture", 
/**
 * To start from.
 */
picture: InputPicture, 
/**
 * If it has one that is understood.
 */
recipe: RecipeOffer | null, } | { "kind": "refused", 
/**
 * File name.
 */
name: string, 
/**
 * What it is, and why it cannot be used.
 */
failure: Failure, };

/**
 * A picture that a recipe can start from; its pixels are at `input/ID`.
 */
export type InputPicture = { 
/**
 * Its SHA-256.
 */
id: string, 
/**
 * What a recipe calls it.
 */
file: FileRef, 
/**
 * What its file was called.
 */
name: string, 
/**
 * Pixels.
 */
width: number, 
/**
 * Pixels.
 */
height: number, };

/**
 * The recipe of a file, as far as it could be read.
 */
export type RecipeOffer = { 
/**
 * On the defaults of its base model.
 */
params: GenerationParams, 
/**
 * What cannot be honored: whole sentences.
 */
warnings: Array<string>, };

/**
 * A prompt's length, as the text encoder counts.
 */
export type TokenCount = { 
/**
 * Of the last chunk.
 */
used: number, 
/**
 * Of all chunks.
 */
total: number, 
/**
 * Tokens that a chunk holds.
 */
limit: number, 
/**
 * Where chunks end, as offsets into the text in UTF-16 units; the last is left out.
 */
ends: Array<number>, };

/**
 * What Live is doing.
 */
export type LiveState = "off" | "waiting" | "rendering" | "shown" | "failed";

/**
 * The state of Live.
 */
export type Live = { 
/**
 * What it is doing.
 */
state: LiveState, 
/**
 * Of `live/0`; `null` before the first frame.
 */
revision: number | null, 
/**
 * The wish that the shown frame answers.
 */
wish: number, 
/**
 * Whether the shown frame is the full recipe, not one with fewer steps.
 */
full: boolean, 
/**
 * From wish to frame.
 */
seconds: number | null, 
/**
 * Why Live waits: a whole sentence.
 */
reason: string | null, 
/**
 * Why there is no frame.
 */
error: Failure | null, };

/**
 * The window's colors.
 */
export type Theme = "system" | "light" | "dark";

/**
 * What the person set. An empty file means the defaults.
 */
export type Settings = { 
/**
 * The window's colors: "system", "light" or "dark".
 */
theme: Theme, 
/**
 * Folder for pictures; without one, Impasto in the platform's folder for pictures.
 */
output_folder: string | null, 
/**
 * Folders with models, those of other programs too. They are never written to.
 */
model_folders: Array<string>, 
/**
 * What to compute on, by id: "auto" (every card that can be used, each a picture of its own, or else the
 * processor), "cpu", "cuda:1".
 */
device: string, 
/**
 * Threads to compute with; without a number, all cores. Pictures do not depend on it.
 */
threads: number | null, 
/**
 * Gigabytes in which base models stay loaded, on each device; without a number, half of its memory. The
 * one in use stays in any case.
 */
model_memory: number | null, 
/**
 * Say so on the desktop when a picture is done and the window is not in front.
 */
notify: boolean, 
/**
 * Show the picture while it forms.
 */
previews: boolean, 
/**
 * Ask before pictures are deleted.
 */
confirm_delete: boolean, };

/**
 * One entry of a list.
 */
export type Choice = { 
/**
 * For files.
 */
id: string, 
/**
 * For a person.
 */
name: string, };

/**
 * Something to compute on.
 */
export type Device = { 
/**
 * For files: "cpu".
 */
id: string, 
/**
 * For a person.
 */
name: string, 
/**
 * Its memory.
 */
memory_bytes: number | null, 
/**
 * Its driver, if it has one: "CUDA 13.0".
 */
driver: string | null, 
/**
 * Why it cannot be used.
 */
unusable: string | null, };

/**
 * What there is to choose from.
 */
export type Catalog = { 
/**
 * In the order in which they are shown.
 */
samplers: Array<Choice>, 
/**
 * In the order in which they are shown.
 */
schedules: Array<Choice>, 
/**
 * Methods by which models and adapters were made to need few steps.
 */
accelerations: Array<Choice>, 
/**
 * What this machine could compute on.
 */
devices: Array<Device>, 
/**
 * Those that compute where the person does not choose, each a picture of its own.
 */
best_devices: Array<string>, 
/**
 * Of a picture, in pixels.
 */
max_side: number, 
/**
 * Of this program.
 */
version: string, 
/**
 * Of this machine.
 */
cores: number, };

/**
 * A stack under a name, with weights and words; what is in it is the window's business.
 */
export type NamedStack = { 
/**
 * Unique.
 */
name: string, 
/**
 * As the window saved it.
 */
stack: unknown, 
/**
 * Milliseconds since 1970.
 */
saved_at: number, };

/**
 * Something that the person must know and that has no place of its own: whole sentences.
 */
export type Notice = { 
/**
 * What happened.
 */
message: string, 
/**
 * What to do.
 */
hint: string | null, };

/**
 * How far a copy is, in bytes.
 */
export type CopyProgress = { 
/**
 * Id of the card that is being copied.
 */
card: number, 
/**
 * Bytes written.
 */
done: number, 
/**
 * Bytes to write; `done` equals it at the end.
 */
total: number, 
/**
 * Why it failed, or that it was cancelled.
 */
error: Failure | null, };

/**
 * How far the conversion of a model is, in bytes.
 */
export type ConvertProgress = { 
/**
 * Id of the card that is converted.
 */
card: number, 
/**
 * Bytes written.
 */
done: number, 
/**
 * Bytes to write.
 */
total: number, 
/**
 * Id of the new model's card, once it is there.
 */
made: number | null, 
/**
 * Why it failed, or that it was cancelled.
 */
error: Failure | null, };

/**
 * All that a fresh window needs.
 */
export type Snapshot = { 
/**
 * All that are in the list.
 */
jobs: Array<Job>, 
/**
 * Ids of queued jobs, in order.
 */
order: Array<number>, 
/**
 * No job is begun.
 */
paused: boolean, 
/**
 * How far the running jobs are.
 */
progress: Array<JobProgress>, 
/**
 * The state of Live.
 */
live: Live, 
/**
 * The settings.
 */
settings: Settings, 
/**
 * What the window saved last; `null` at the first start.
 */
session: unknown, 
/**
 * Stacks that were saved under a name.
 */
stacks: Array<NamedStack>, 
/**
 * All sheets, the newest first.
 */
sheets: Array<SheetEntry>, 
/**
 * Parameters to begin with: those that suit the starter, without adapters.
 */
defaults: GenerationParams, 
/**
 * The devices and the precision: "CPU · f32", "2 cards · bf16".
 */
device: string, 
/**
 * Where pictures go.
 */
output_folder: string, 
/**
 * Where everything else lies.
 */
data_folder: string, 
/**
 * See [`Event::Gallery`].
 */
gallery_revision: number, 
/**
 * See [`Event::Library`].
 */
library_revision: number, 
/**
 * What there was to say before the window listened.
 */
notices: Array<Notice>, };

/**
 * One thing that changed.
 */
export type Event = { "event": "snapshot", "data": Snapshot } | { "event": "job", "data": Job } | { "event": "job_removed", "data": number } | { "event": "queue", "data": { 
/**
 * Ids of queued jobs, in order.
 */
order: Array<number>, 
/**
 * No job is begun.
 */
paused: boolean, } } | { "event": "progress", "data": JobProgress } | { "event": "image_saved", "data": GalleryImage } | { "event": "gallery", "data": { 
/**
 * Counts up.
 */
revision: number, } } | { "event": "library", "data": { 
/**
 * Counts up.
 */
revision: number, } } | { "event": "copying", "data": CopyProgress } | { "event": "converting", "data": ConvertProgress } | { "event": "settings", "data": Settings } | { "event": "stacks", "data": Array<NamedStack> } | { "event": "sheets", "data": Array<SheetEntry> } | { "event": "live", "data": Live } | { "event": "files", "data": Array<string> } | { "event": "notice", "data": Notice };
