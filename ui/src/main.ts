// The window's first line: styles, then the app.
import '@fontsource-variable/fraunces/wght.css';
import '@fontsource-variable/instrument-sans/index.css';
import { mount } from 'svelte';
import App from './App.svelte';
import './app.css';

const target = document.getElementById('app');
if (target) mount(App, { target });
